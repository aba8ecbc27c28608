"""A run of a project is trained once more: the same bit for bit, or what differs, and why; what cannot be had is told."""

import json
import shutil
import socket
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
import yaml

from pawl import paths, sample, tracking
from scripts import compare, register, report, reproduce

LENIENT = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}
TABLE = Path("tables/census.csv")


@pytest.fixture(scope="module")
def registered(untouched):
    """A project whose table is not in git, with version 1 of a commit that is two behind."""
    project = untouched
    (project.path / "gates.yaml").write_text(yaml.safe_dump(LENIENT))
    (project.path / TABLE.parent).mkdir()
    pa.csv.write_csv(pa.Table.from_batches(sample.batches(3000, 0, 0.0)), project.path / TABLE)
    with (project.path / ".gitignore").open("a") as file:
        file.write("/tables/\n")
    project.set(**{"ingest.source": str(TABLE)})
    project.run()
    project.commit("a model")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):  # MLflow's, as it is imported
        enter(project, patch)
        assert (report.main([]), register.main([])) == (0, 0)
    project.set(**{"train.params.n_estimators": 3})
    project.commit("another")
    project.set(**{"train.params.num_leaves": 4})
    project.commit("and another")
    return project


def enter(project, patch):
    """Be in the project, as its user. MLflow keeps one connection per name of a store, so that this one has a path of its own."""
    patch.chdir(project.path)
    patch.setattr(paths, "STORE", project.path / "mlflow.db")
    patch.setenv("DVC_SITE_CACHE_DIR", str(project.path / ".dvc/tmp/site"))
    for name in ("MLFLOW_TRACKING_URI", "PAWL_COMMIT"):
        patch.delenv(name, raising=False)


@pytest.fixture
def here(registered, monkeypatch):
    enter(registered, monkeypatch)
    return registered


def refused(capsys, *words, code=2):
    assert reproduce.main(words) == code
    return capsys.readouterr().err


def make_run(**tags):
    with tracking.store() as store:
        run = store.client.create_run(store.experiment("elsewhere"), run_name="given", tags=tags).info.run_id
        store.client.set_terminated(run)
    return run


def original():
    with tracking.store() as store:
        run = compare.of_version(store, "1")
        return run, Path(store.files(run.info.artifact_uri).artifact_dir)


def test_a_run_of_an_older_commit_comes_out_the_same_bit_for_bit(here, capsys):
    before, (run, _) = here.outputs(), original()

    assert reproduce.main(["--version", "1"]) == 0

    said = capsys.readouterr().out
    assert said.startswith(
        f"Reproduced: the same model, bit for bit ({run.data.tags['pawl.digest']}), every metric equal ("
    )
    assert not list(Path(".pawl/reproduce").iterdir())
    assert here.outputs() == before


def test_what_changed_since_is_named_with_the_numbers_that_differ(here, capsys):
    run, artifacts = original()
    table, lock, made_by = (path.read_text() for path in (TABLE, paths.LOCK, artifacts / "environment/made_by.json"))
    TABLE.write_text("\n".join(line for number, line in enumerate(table.splitlines()) if number % 9 != 5) + "\n")
    paths.LOCK.write_text(lock + "# another\n")
    changed = json.loads(made_by) | {"python": "3.9.1"}
    (artifacts / "environment/made_by.json").write_text(json.dumps(changed))

    code = reproduce.main(["--run", run.info.run_id[:12]])

    TABLE.write_text(table)
    paths.LOCK.write_text(lock)
    (artifacts / "environment/made_by.json").write_text(made_by)
    said, folder = capsys.readouterr().out, Path(".pawl/reproduce") / run.info.run_id
    assert code == 1
    assert f"data: {run.data.tags['pawl.data'][:12]} → " in said
    assert not any(f"  {part}: " in said for part in ("params", "code", "environment"))  # the commit's own
    assert "the source data has changed since: data/source.json" in said
    assert "the environment: requirements/pipeline.txt here is not the run's" in said
    assert "python: 3.9.1 → " in said
    assert f"test.roc_auc: {run.data.metrics['test.roc_auc']:.6g} → " in said
    assert f"kept: {folder}" in said
    assert (folder / "models/bundle/manifest.json").exists()
    shutil.rmtree(folder)


def test_the_same_model_with_another_number_is_not_reproduced(here, capsys):
    run, _ = original()
    with tracking.store() as store:
        store.client.log_metric(run.info.run_id, "test.accuracy", 0.99)

    code = reproduce.main(["--run", run.info.run_id])

    with tracking.store() as store:
        store.client.log_metric(run.info.run_id, "test.accuracy", run.data.metrics["test.accuracy"])
    said = capsys.readouterr().out
    assert code == 1
    assert "test.accuracy: 0.99 → " in said
    assert "1 of " in said
    assert "model: " not in said


def test_a_pipeline_that_cannot_run_says_why_and_where(here, capsys):
    run, _ = original()
    TABLE.rename("aside.csv")

    said = refused(capsys, "--version", "1")

    Path("aside.csv").rename(TABLE)
    assert "its pipeline does not run here: " in said
    assert f"where: .pawl/reproduce/{run.info.run_id}" in said


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"pawl.commit": f"{'a' * 40}-dirty"}, "was trained with files that differ from commit aaaaaaa: these are not in git"),
        ({}, "names no commit and model of this repository"),
        ({"pawl.commit": "--help", "pawl.digest": "sha256:1"}, "names no commit and model of this repository"),
        ({"pawl.commit": "f" * 40, "pawl.digest": "sha256:1", "mlflow.source.git.repoURL": "https://example.org/other"},
         f"is not in this clone\n  where: {{}}\n  fix: git fetch https://example.org/other {'f' * 40}"),
    ],
    ids=["dirty", "no commit", "no hash", "another repository"],
)  # fmt: skip
def test_a_run_whose_files_cannot_be_had_is_refused_before_anything_runs(here, capsys, monkeypatch, tags, says):
    monkeypatch.setattr(reproduce.baseline, "play", None)

    assert says.replace("{}", str(here.path)) in refused(capsys, "--run", make_run(**tags))


@pytest.mark.parametrize(("words", "says"), [(["--run", "0123abc"], "there is no run 0123abc"), (["--version", "7"], "there is no version 7")])  # fmt: skip
def test_what_is_not_there_is_told_by_name(here, capsys, words, says):
    assert says in refused(capsys, *words)


def test_a_store_that_does_not_answer_is_told(here, capsys, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")

    assert "the MLflow server does not answer" in refused(capsys, "--run", "1", code=3)


@pytest.mark.parametrize("words", [[], ["--run", "1", "--version", "1"]])
def test_one_run_or_one_version_is_asked_for(words):
    with pytest.raises(SystemExit) as ended:
        reproduce.main(words)

    assert ended.value.code == 2
