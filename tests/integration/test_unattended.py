"""`scripts.unattended`: the whole of a training where nobody watches, and where git is not."""

import json
import shutil
import sys

import pytest

A, B = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def copied(tmp_path_factory, make_project):
    """A project as an image holds it: without history, its commit in the environment."""
    made = make_project(tmp_path_factory.mktemp("image"))
    shutil.rmtree(made.path / ".git")
    gates(made, 0.5)
    made.unattended = lambda commit, **more: made.call(
        sys.executable, "-m", "scripts.unattended", check=False, PAWL_COMMIT=commit, **more
    )
    return made


def gates(project, floor):
    rule = {"direction": "higher", "floor": floor}
    (project.path / "gates.yaml").write_text(json.dumps({"version": 1, "metrics": {"roc_auc": rule}}))


def test_what_was_trained_last_is_the_candidate_and_its_outputs_are_in_the_remote(copied, tmp_path):
    first = copied.unattended(A, DVC_REMOTE=str(tmp_path / "remote"))
    again = copied.unattended(A, DVC_REMOTE=str(tmp_path / "remote"))
    copied.set(**{"train.params.num_leaves": 5})
    second = copied.unattended(B)

    assert (first.returncode, again.returncode, second.returncode) == (0, 0, 0), first.stderr + second.stderr
    assert "version 1 is in mlflow.db (new; candidate)" in first.stdout
    assert sum(path.is_file() for path in (tmp_path / "remote").rglob("*")) > 8
    assert "0 files are new" in again.stdout
    assert "version 1 is in mlflow.db (registered before; candidate)" in again.stdout
    assert "version 2 is in mlflow.db (new; candidate)" in second.stdout


def test_each_end_has_its_code(copied):
    away = copied.unattended(B, DVC_REMOTE="/proc/nowhere")
    gates(copied, 0.99)
    blocked = copied.unattended(B)
    gates(copied, "high")
    wrong = copied.unattended(B)

    assert (away.returncode, blocked.returncode, wrong.returncode) == (3, 1, 2)
    assert "outputs cannot be sent" in away.stderr
    assert "no version was made" in blocked.stdout
    assert "gates.yaml" in wrong.stderr
