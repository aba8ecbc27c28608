"""Same commit, same data, same lock: same model, whatever the processor, the number of cores or the path."""

import json
import os
import sys

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from pawl import bundle

REFUSE_NETWORK = """
import os, socket

def audit(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1", "localhost"):
        open(os.environ["PAWL_ATTEMPTS"], "a").write(f"{args[1]}\\n")
        raise ConnectionRefusedError("only loopback")
    if event == "socket.getaddrinfo" and args[0] not in ("127.0.0.1", "::1", "localhost", None):
        open(os.environ["PAWL_ATTEMPTS"], "a").write(f"{args[0]}\\n")
        raise socket.gaierror("only loopback")

import sys
sys.addaudithook(audit)
"""


def digest(project):
    return json.loads((project.path / "models/bundle/manifest.json").read_text())["digest"]


def test_a_run_reaches_for_nothing_beyond_this_machine(fresh, tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard/sitecustomize.py").write_text(REFUSE_NETWORK)
    attempts = tmp_path / "attempts"
    guarded = {"PYTHONPATH": f"{tmp_path / 'guard'}{os.pathsep}{fresh.path / 'src'}", "PAWL_ATTEMPTS": str(attempts)}
    probe = fresh.call(
        sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80))", check=False, **guarded
    )
    assert "only loopback" in probe.stderr
    attempts.unlink()

    fresh.run(**guarded)

    assert not attempts.exists()


ELSEWHERE = {
    "without vector extensions": {"NPY_DISABLE_CPU_FEATURES": " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))},
    "another BLAS, one core, another hash seed": {"OPENBLAS_CORETYPE": "Prescott", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1234"},
}  # fmt: skip


@pytest.mark.parametrize("environ", ELSEWHERE.values(), ids=ELSEWHERE)
def test_another_machine_makes_the_same_model(project, fresh, environ):
    fresh.call("git", "fetch", "--quiet", str(project.path), "main")
    fresh.call("git", "reset", "--quiet", "--hard", "FETCH_HEAD")

    fresh.run("--no-run-cache", **environ)

    assert digest(fresh) == digest(project)
    made, expected = (
        {name: digest for name, digest in each.outputs().items() if name.startswith(("data/", "reports/estimator"))}
        for each in (fresh, project)
    )
    assert made == expected


def test_the_stages_make_the_same_model_one_by_one(project, fresh):
    fresh.call("git", "fetch", "--quiet", str(project.path), "main")
    fresh.call("git", "reset", "--quiet", "--hard", "FETCH_HEAD")

    fresh.call("dvc", "repro", "--quiet")

    assert digest(fresh) == digest(project)


def test_other_data_makes_another_model(project, fresh):
    fresh.set(**{"ingest.sample.seed": 1})

    fresh.run()

    assert digest(fresh) != digest(project)


def test_the_bundle_knows_the_rows_it_was_trained_on_and_no_other(project):
    import numpy as np
    import pyarrow.parquet as pq

    from pawl.rows import hash_column

    loaded = bundle.load(project.path / "models/bundle")

    ids = {
        split: hash_column(pq.read_table(project.path / f"data/prepared/{split}.parquet")["row_id"])
        for split in ("train", "valid", "test")
    }
    assert np.isin(ids["train"], loaded.trained_on).all()
    assert not np.isin(ids["test"], loaded.trained_on).any()
    assert not np.isin(ids["valid"], loaded.trained_on).any()
