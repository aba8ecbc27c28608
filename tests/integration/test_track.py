"""One run per commit and lock: it holds everything that the model was made of, all that autologging would say, and moves with its folder."""

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from pawl import bundle, frames, tracking
from pawl.yamlfile import change


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logged(registry, warm, script="track", **environ):
    """Log the run of a registry in a process of its own; return what the store knows of it."""
    ((code, said),) = warm(registry.job(script, environ=environ))
    assert code == 0, said
    assert "canary7f3a" not in said
    (registry.run, _), *_ = registry.runs[-1:]
    return registry


@pytest.fixture(scope="module")
def tracked(modelled, empty, make_registry, warm, tmp_path_factory):
    """A project whose table comes from an address with a password, and its run."""
    path = tmp_path_factory.mktemp("tracked") / "project"
    made = make_registry(modelled, path, path)
    (path / "mlflow.db").write_bytes(empty.read_bytes())
    made.edit("params.yaml", "source: sample", "source: https://me:canary7f3a@example.org/table.csv")
    return logged(made, warm)


def info(registry):
    """Return (name, start, end) of the run."""
    ((name, start, end),) = registry.rows("select name, start_time, end_time from runs where run_uuid = ?", registry.run)  # fmt: skip
    return name, start, end


def head(registry):
    return registry.git("rev-parse", "HEAD")


def test_tracked_twice_it_is_one_run(registry):
    first = registry.do("track")
    again = registry.do("track")

    ((run, status),) = registry.runs
    assert status == "FINISHED"
    assert first == f"Run {run} (new) is in {registry.store / 'mlflow.db'}.\n"
    assert again == first.replace("(new)", "(known)")


def test_a_run_has_the_name_and_the_parent_that_it_is_given(registry):
    registry.do("track", "--name", "a search", "--parent", "f" * 32)

    registry.run = registry.runs[0][0]
    assert info(registry)[0] == "a search"
    assert registry.values("tags", registry.run)["mlflow.parentRunId"] == "f" * 32


def test_a_run_whose_files_were_lost_is_sent_again(registry):
    registry.do("track")
    (run, _), *_ = registry.runs
    before = registry.files(run)
    next(registry.store.glob(f"mlartifacts/pawl/{run}/artifacts/estimator.html")).unlink()

    registry.do("track")

    assert registry.files(run).keys() == before.keys()
    assert [each for each, _ in registry.runs] == [run]


@pytest.mark.parametrize("verdict", ["fail", "error", "inconclusive"])
def test_a_model_that_may_not_ship_is_a_run_too(registry, verdict):
    registry.report(verdict=verdict, allowed=False)

    registry.do("track")

    tags = registry.values("tags", registry.runs[0][0])
    assert (tags["pawl.verdict"], tags["pawl.allowed"]) == (verdict, "false")


@pytest.mark.parametrize(
    ("gone", "fix"), [("reports/report.json", "make report"), ("models/bundle/manifest.json", "make run")]
)
def test_without_a_model_or_its_report_it_says_what_to_run(registry, gone, fix):
    (registry.path / gone).unlink()

    for script in ("track", "register"):
        assert fix in registry.do(script, code=2)
    assert registry.runs == []


# What makes a run reproducible


def test_it_began_and_ended_when_its_stages_did(tracked):
    stages = {each["stage"]: each for each in map(json.loads, (tracked.path / ".pawl/stages.jsonl").read_text().splitlines())}  # fmt: skip
    began = min(each["started"] for each in stages.values())
    ended = max(each["started"] + each["seconds"] for each in stages.values())

    assert info(tracked)[1:] == (int(began * 1000), int(ended * 1000))
    metrics = tracked.values("latest_metrics", tracked.run)
    assert {f"seconds.{name}" for name in stages} == {name for name in metrics if name.startswith("seconds.")}


def test_it_names_commit_source_and_description(tracked):
    tags = tracked.values("tags", tracked.run)

    assert tags["mlflow.source.name"] == "scripts/run.py"
    assert tags["mlflow.source.git.commit"] == tags["pawl.trained_commit"] == head(tracked)
    assert tags["mlflow.note.content"] == "a model"
    assert tags["mlflow.source.git.branch"] == "main"
    assert tags["mlflow.source.git.repoURL"] == "https://example.org/me/model.git"
    assert info(tracked)[0] == head(tracked)[:7]


def test_a_note_is_the_description(tracked, copies, warm):
    noted = logged(copies(tracked), warm, NOTE="a wider search")

    assert noted.run == tracked.run
    assert noted.values("tags", noted.run)["mlflow.note.content"] == "a wider search"


def test_where_it_came_from_and_where_it_lies_is_told_without_a_password(tracked):
    tags = tracked.values("tags", tracked.run)

    assert tags["pawl.input"] == "https://example.org/table.csv"
    assert tracked.place(tags["pawl.output"]).joinpath("MLmodel").exists()
    assert tracked.values("params", tracked.run)["ingest.source"] == "https://example.org/table.csv"
    assert b"canary7f3a" not in (tracked.store / "mlflow.db").read_bytes()


def test_a_description_that_was_given_stays_until_another_is_given(tracked, copies, warm):
    here = copies(tracked)
    for note, expected in (("first", "first"), ("", "first"), ("second", "second")):
        noted = logged(here, warm, NOTE=note)
        assert noted.values("tags", noted.run)["mlflow.note.content"] == expected


def test_it_has_every_parameter_given_or_not(tracked):
    params = tracked.values("params", tracked.run)
    estimator = bundle.load(tracked.path / "models/bundle").pipeline[-1]
    given = yaml.safe_load((tracked.path / "params.yaml").read_text())

    effective = estimator.get_params() | estimator.booster_.params
    assert {name: params.get(name) for name in effective} == {name: str(value) for name, value in effective.items()}
    assert params["num_leaves"] == str(given["train"]["params"]["num_leaves"])
    assert params["threshold"] == "0.5"


def test_it_has_every_metric_with_its_interval(tracked):
    found = tracked.values("latest_metrics", tracked.run)
    told = json.loads((tracked.path / "reports/metrics.json").read_text())

    for split, metrics in told.items():
        for name, each in metrics.items():
            ends = [found.get(f"{split}.{name}{end}") for end in ("", ".low", ".high")]
            assert ends == [each["value"], each["low"], each["high"]], name


def test_a_learning_curve_is_a_metric_with_steps(tracked):
    lines = [line.split(",") for line in (tracked.path / "reports/history.csv").read_text().splitlines()[1:]]
    query = "select step, value from metrics where run_uuid = ? and key = 'valid.binary_logloss' order by step"

    assert tracked.rows(query, tracked.run) == [(int(step), float(value)) for step, split, metric, value in lines if split == "valid"]  # fmt: skip


def test_it_holds_lock_environment_report_and_plots_byte_for_byte(tracked):
    files = tracked.files(tracked.run)
    names = {f"inputs/{name}": name for name in ("params.yaml", "schema.yaml", "gates.yaml", "dvc.yaml", "dvc.lock")}
    names |= {f"environment/{name.rpartition('/')[2]}": name for name in ("requirements/pipeline.txt", "models/made_by.json")}  # fmt: skip
    names |= {f"reports/{name}": f"reports/{name}" for name in ("report.json", "report.html", "model_card.md", "metrics.json", "history.csv")}  # fmt: skip

    for name, path in names.items():
        assert files[name] == (tracked.path / path).read_bytes(), name
    assert {"plots/roc.svg", "plots/calibration.svg", "plots/learning.svg", "plots/importances.svg"} <= files.keys()
    assert all(files[name].startswith(b"<svg") for name in files if name.endswith(".svg"))


def test_its_datasets_are_named_by_what_they_hold(tracked):
    query = "select input_tags.value, datasets.name, digest, dataset_source from inputs join datasets on source_id = dataset_uuid join input_tags using (input_uuid) where destination_id = ?"
    found = {context: (name, digest, json.loads(source)) for context, name, digest, source in tracked.rows(query, tracked.run)}  # fmt: skip

    assert found == {
        name: (name, sha256(tracked.path / f"data/prepared/{name}.parquet")[:36], {"uri": f"data/prepared/{name}.parquet", "from": "https://example.org/table.csv"})
        for name in ("train", "valid", "test")
    }  # fmt: skip


def test_its_model_is_the_bundle_with_signature_and_example(tracked):
    ((place,),) = tracked.rows("select artifact_location from logged_models where source_run_id = ?", tracked.run)
    model = tracked.place(place)
    described = yaml.safe_load((model / "MLmodel").read_text())
    loaded = bundle.load(tracked.path / "models/bundle")

    for path in (tracked.path / "models/bundle").iterdir():
        assert (model / "data/bundle" / path.name).read_bytes() == path.read_bytes()
    assert [each["name"] for each in json.loads(described["signature"]["inputs"])] == list(loaded.dtypes)
    assert [each["name"] for each in json.loads(described["signature"]["outputs"])] == ["predictions", "probabilities"]
    example = json.loads((model / "input_example.json").read_text())
    assert dict(zip(example["columns"], example["data"][0], strict=True)) == loaded.golden["records"][0]
    assert described["metadata"]["digest"] == loaded.digest


# A bundle that somebody has changed


def poisoned(path, how, canary):
    """Change a bundle as somebody would who wants this process to run a command, or to read a file of theirs."""
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self):
            return open, (str(canary), "w")

    manifest = json.loads((path / "manifest.json").read_text())
    for file in path.iterdir():
        content = file.read_bytes()
        file.unlink()  # it may be shared
        file.write_bytes(content)
    if how == "another digest":
        manifest["digest"] = "sha256:" + "0" * 64
    elif how == "a pickle instead of the pipeline":
        (path / "pipeline.skops").write_bytes(pickle.dumps(Evil()))
    elif how == "a pickle in the pipeline, with its digests":
        with zipfile.ZipFile(path / "pipeline.skops", "a") as file:
            file.writestr("evil.pickle", pickle.dumps(Evil()))
        schema = {"__class__": "system", "__module__": "posix", "__loader__": "TypeNode", "__id__": 0}
        with zipfile.ZipFile(path / "pipeline.skops", "w") as file:
            file.writestr("schema.json", json.dumps(schema | {"protocol": 2, "_skops_version": "0.13"}))
    elif how == "a link":
        (path / "golden.json").unlink()
        (path / "golden.json").symlink_to("/etc/hostname")
    elif how == "another file":
        manifest["files"]["evil.py"] = {"sha256": "0" * 64, "size": 1}
        (path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    elif how == "a path that leads out":
        manifest["files"]["../../params.yaml"] = manifest["files"].pop("golden.json")
    for name in manifest["files"]:
        if how.endswith("digests") and (path / name).exists():
            manifest["files"][name] = {"sha256": sha256(path / name), "size": (path / name).stat().st_size}
    if how != "another digest":
        content = {key: value for key, value in manifest.items() if key != "digest"}
        manifest["digest"] = "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    return manifest["digest"]


@pytest.mark.parametrize(
    "how",
    [
        "another digest", "a pickle instead of the pipeline", "a pickle in the pipeline, with its digests", "a link", "another file",
        "a path that leads out",
    ],
)  # fmt: skip
@pytest.mark.parametrize("script", ["register", "track"])
def test_a_bundle_that_was_changed_is_refused_before_anything_is_loaded_or_logged(registry, tmp_path, how, script):
    registry.report(digest=poisoned(registry.path / "models/bundle", how, tmp_path / "canary"))

    told = registry.do(script, code=2)

    assert told.startswith("error: ")
    assert not (tmp_path / "canary").exists()
    assert registry.runs == []
    assert registry.versions == {}


# What autologging would say of the same fit

AUTOLOG = """
import importlib, json
from pathlib import Path

import mlflow
import pyarrow.parquet as pq

from pawl import config, frames, paths
from pawl.pipeline import train

params = config.load(paths.PARAMS)
tables = {name: pq.read_table(paths.PREPARED / f"{name}.parquet") for name in ("train", "valid")}
labels = train.labels_of(tables["train"].column(params.target), params.problem)
y = {name: train.target(table.column(params.target), labels) for name, table in tables.items()}
X = {name: frames.read_matrix(paths.FEATURES / name) for name in tables}
mlflow.set_tracking_uri("sqlite:///autolog.db")
client = mlflow.MlflowClient()
mlflow.set_experiment(experiment_id=client.create_experiment("autolog", Path("autolog").absolute().as_uri()))
importlib.import_module(f"mlflow.{FLAVOR}").autolog(log_input_examples=True)
with mlflow.start_run() as run:
    model, _ = train.fit(params.train, labels, X["train"], y["train"], X["valid"], y["valid"])
found = client.get_run(run.info.run_id)
model, = client.search_logged_models([found.info.experiment_id])
Path("autolog.json").write_text(json.dumps({
    "params": found.data.params, "tags": found.data.tags, "metrics": found.data.metrics,
    "curves": {name: [[each.step, each.value] for each in client.get_metric_history(run.info.run_id, name)] for name in found.data.metrics},
    "datasets": [tag.value for each in found.inputs.dataset_inputs for tag in each.tags],
    "files": {str(path.relative_to("autolog")): path.read_text(errors="replace") for path in Path("autolog").rglob("*") if path.is_file()},
    "artifacts": [each.path for each in client.list_artifacts(run.info.run_id)], "run": run.info.run_id,
}))
"""  # fmt: skip
METRICS = {  # of autologging: of ours
    "valid-binary_logloss": "valid.binary_logloss", "train-binary_logloss": "train.binary_logloss", "best_iteration": "best_iteration",
    "stopped_iteration": "stopped_iteration", "training_accuracy_score": "train.accuracy", "training_score": "train.accuracy",
    "training_roc_auc": "train.roc_auc", "training_log_loss": "train.log_loss", "training_f1_score": "train.f1_weighted",
    "training_recall_score": "train.accuracy",  # weighted by class that is what it is
    "training_precision_score": None,  # weighted by class it answers no question that one asks: ours is of the positive label
}  # fmt: skip
PARAMS = {"keep_training_booster"}  # of lightgbm.train, which the estimator calls: it says nothing of the model
FILES = {  # of autologging: of ours; content is compared where it is no picture
    "feature_importance_gain.json": "feature_importance_gain.json", "feature_importance_split.json": "feature_importance_split.json",
    "feature_importance_gain.png": "plots/importances.svg", "feature_importance_split.png": "plots/importances.svg",
    "estimator.html": "estimator.html", "training_confusion_matrix.png": "plots/confusion.csv", "training_roc_curve.png": "plots/roc.svg",
    "training_precision_recall_curve.png": "plots/precision_recall.svg",
}  # fmt: skip


@pytest.fixture(scope="module")
def forest(modelled, empty, make_project, make_registry, tmp_path_factory):
    """The same project with another estimator: scikit-learn's."""
    path = tmp_path_factory.mktemp("forest") / "project"
    made = make_registry(modelled, path, path)
    project = make_project.__new__(make_project)
    project.path = path
    project.set(**{"train.model": "sklearn.ensemble.RandomForestClassifier", "train.params": {"n_estimators": 10, "max_depth": 5}})  # fmt: skip
    made.git("commit", "--quiet", "--all", "--message", "a forest")
    project.run()
    project.call(sys.executable, "-m", "scripts.report")
    (path / "mlflow.db").write_bytes(empty.read_bytes())
    return made


@pytest.fixture(scope="module")
def compared(modelled, forest, empty, make_registry, warm, tmp_path_factory):
    """Return {flavor: (what autologging said, our run)} of the same fits."""
    boosted = make_registry(modelled, (path := tmp_path_factory.mktemp("boosted") / "project"), path)
    (path / "mlflow.db").write_bytes(empty.read_bytes())
    found = {}
    for flavor, made in (("lightgbm", boosted), ("sklearn", forest)):
        (made.path / "autolog.db").write_bytes(empty.read_bytes())
        ((code, said),) = warm(made.job("", code=f"FLAVOR = {flavor!r}\n{AUTOLOG}"))
        assert code == 0, said
        found[flavor] = json.loads((made.path / "autolog.json").read_text()), logged(made, warm)
    return found


FLAVORS = pytest.mark.parametrize("flavor", ["lightgbm", "sklearn"])


@FLAVORS
def test_every_parameter_that_autologging_knows_is_in_the_run(compared, flavor):
    theirs, made = compared[flavor]
    ours = made.values("params", made.run)

    expected = {name: value for name, value in theirs["params"].items() if name not in PARAMS}
    assert {name: ours.get(name) for name in expected} == expected


@FLAVORS
def test_every_metric_that_autologging_knows_is_in_the_run(compared, flavor):
    theirs, made = compared[flavor]
    ours = made.values("latest_metrics", made.run)

    for name, value in theirs["metrics"].items():
        if METRICS[name] and len(theirs["curves"][name]) == 1:
            assert ours[METRICS[name]] == pytest.approx(value, abs=1e-6), name


def test_every_step_of_a_learning_curve_is_in_the_run(compared):
    theirs, made = compared["lightgbm"]
    query = "select step, value from metrics where run_uuid = ? and key = ? order by step"

    for name in ("valid-binary_logloss", "train-binary_logloss"):
        expected = [value for _, value in sorted(theirs["curves"][name])]
        rounds = made.rows(query, made.run, METRICS[name])
        assert [step for step, _ in rounds] == list(range(1, 31))  # as everywhere here: the number of trees, not from 0
        assert [value for _, value in rounds] == pytest.approx(expected[:30], rel=1e-8)
        assert expected[30:] == [expected[29]]  # once more, that of the best round


@FLAVORS
def test_every_file_that_autologging_writes_is_in_the_run(compared, flavor):
    theirs, made = compared[flavor]
    ours = made.files(made.run)

    for name in theirs["artifacts"]:
        assert FILES[name] in ours
        if name.endswith(".json"):
            numbered = json.loads(theirs["files"][f"{theirs['run']}/artifacts/{name}"])  # Column_0, ...: ours has names
            names = json.loads((made.path / "models/bundle/manifest.json").read_text())["feature_names"]
            assert json.loads(ours[FILES[name]]) == {
                names[int(each.partition("_")[2])]: value for each, value in numbered.items()
            }
        if name.endswith(".html"):
            assert b"RandomForestClassifier" in ours[FILES[name]]


@FLAVORS
def test_what_else_autologging_says_is_in_the_run(compared, flavor):
    theirs, made = compared[flavor]
    tags = made.values("tags", made.run)
    contexts = {value for (value,) in made.rows("select value from input_tags join inputs using (input_uuid) where destination_id = ?", made.run)}  # fmt: skip
    ((place,),) = made.rows("select artifact_location from logged_models where source_run_id = ?", made.run)
    described = yaml.safe_load((made.place(place) / "MLmodel").read_text())

    assert {name: value for name, value in tags.items() if name.startswith("estimator_")}.items() >= {name: value for name, value in theirs["tags"].items() if name.startswith("estimator_")}.items()  # fmt: skip
    assert set(theirs["datasets"]) <= {"train", "eval"}
    assert contexts == {"train", "valid", "test"}  # theirs has `eval` for valid
    assert described["signature"]
    assert described["saved_input_example_info"]
    assert ("lightgbm" in described["flavors"]) == (flavor == "lightgbm")


# The registry moves

LOOK = """
import json, sys
import mlflow, pandas, pyarrow.parquet as pq

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[3]}@champion")
loaded = model._model_impl.loaded
records = pq.read_table(sys.argv[2]).select(list(loaded.dtypes)).to_pylist()
tables = [pandas.DataFrame(records), pandas.DataFrame([json.loads(sys.argv[4])])]
# MLflow takes no int64 for a double.
answers = [model.predict(table.astype({name: float for name in table.select_dtypes("integer")})) for table in tables]
booster = mlflow.lightgbm.load_model(f"models:/{sys.argv[3]}@champion")
from pawl import frames
pipeline = loaded.pipeline
matrix = pipeline[:-1].transform(frames.from_records(records, loaded.dtypes))
native = [float(each) for each in booster.predict(matrix)]
client = mlflow.MlflowClient()
run = client.get_model_version_by_alias(sys.argv[3], "champion").run_id
text = mlflow.artifacts.load_text(f"runs:/{run}/inputs/dvc.lock")
print(json.dumps({"answers": [each.to_dict("list") for each in answers], "native": native, "lock": text,
    "same": native == pipeline[-1].predict_proba(matrix)[:, 1].tolist(), "from": sys.modules["pawl"].__file__}))
"""


@pytest.fixture(scope="module")
def moved(modelled, empty, make_registry, warm, tmp_path_factory):
    """A registry that was made in one folder, and now lies in another."""
    path = tmp_path_factory.mktemp("made") / "project"
    made = make_registry(modelled, path, path)
    (path / "mlflow.db").write_bytes(empty.read_bytes())
    for script in ("register", "promote"):
        ((code, said),) = warm(made.job(script))
        assert code == 0, said
    folder = tmp_path_factory.mktemp("moved")
    for name in ("mlflow.db", "mlartifacts"):
        (path / name).rename(folder / name)
    return made, folder


def test_a_registry_that_was_moved_serves_models_that_answer_bit_for_bit_as_the_bundle(moved, make_server, tmp_path):
    made, folder = moved
    server = make_server(folder).up()
    loaded = bundle.load(made.path / "models/bundle")
    rows = made.path / "data/prepared/test.parquet"
    lone = loaded.golden["records"][0] | {next(iter(loaded.dtypes)): None}
    environ = {key: value for key, value in (tracking.PATIENCE | made.environ).items() if key != "PYTHONPATH"}

    done = subprocess.run([sys.executable, "-c", LOOK, server.url, str(rows), "pawl", json.dumps(lone)], cwd=tmp_path, env=environ, check=False, capture_output=True, text=True)  # fmt: skip

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for answer, records in zip(said["answers"], (pq.read_table(rows).select(list(loaded.dtypes)).to_pylist(), [lone]), strict=True):  # fmt: skip
        predictions, probabilities = loaded.predict_records(records)
        assert answer["predictions"] == predictions
        labels = loaded.manifest["labels"]
        assert [[each[label] for label in labels] for each in answer["probabilities"]] == probabilities.tolist()
    assert said["same"]
    assert said["native"] == loaded.predict(frames.from_records(pq.read_table(rows).to_pylist(), loaded.dtypes))[1][:, 1].tolist()  # fmt: skip
    assert said["lock"] == (made.path / "dvc.lock").read_text()
    assert str(made.path) not in said["from"]
    assert re.search(r"code", said["from"])


def test_a_registry_that_was_moved_is_known_where_it_lies_now(moved, copies, warm):
    made, folder = moved
    there = copies(made)
    for name in ("mlflow.db", "mlartifacts"):
        subprocess.run(["cp", "-r", str(folder / name), str(there.path)], check=True)
    there.forget()

    ((code, said),) = warm(there.job("register"))

    assert code == 0, said
    assert "(registered before; candidate, champion)" in said
    assert len(there.runs) == 1


def test_a_server_is_used_instead_of_the_embedded_store(copies, server, warm):
    made = copies(on=server, name="on-a-server")

    ((code, said),) = warm(made.job("track", environ={tracking.URI: server.url.replace("http://", "http://me:canary7f3a@")}))  # fmt: skip

    assert code == 0, said
    assert said.endswith(f" (new) is in {server.url}.\n")
    assert [status for _, status in made.runs] == ["FINISHED"]
    assert not (made.path / "mlflow.db").exists()


def test_a_store_whose_making_was_killed_is_made_anew(empty, warm, tmp_path):
    (tmp_path / ".pawl").mkdir()
    (tmp_path / ".pawl/store.part").write_bytes(empty.read_bytes()[: empty.stat().st_size // 2])

    ((code, said),) = warm({"folder": tmp_path, "environ": dict(os.environ), "code": "from pawl import tracking\nwith tracking.store(): pass"})  # fmt: skip

    assert code == 0, said
    assert [path.name for path in (tmp_path / ".pawl").iterdir()] == ["store.lock"]
    for place in (empty, tmp_path / "mlflow.db"):
        with sqlite3.connect(place) as base:
            assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
            tables = base.execute("select count(*) from sqlite_master").fetchone()[0]
            assert tables > 50


def test_a_new_store_names_no_folder_but_its_own(empty, warm, tmp_path):
    ((code, said),) = warm({"folder": tmp_path, "environ": dict(os.environ), "code": "from pawl import tracking\nwith tracking.store(): pass"})  # fmt: skip

    assert code == 0, said
    for place in (empty, tmp_path / "mlflow.db"):
        with sqlite3.connect(place) as base:
            found = base.execute("select name, artifact_location from experiments").fetchall()
        assert found == [("Default", f"{place.parent}/mlruns/0")]


def test_outside_an_environment_of_its_own_the_empty_store_is_kept_here_and_making_it_is_silent(tmp_path):
    (tmp_path / ".pawl").mkdir()
    code = "import sys\nsys.prefix = sys.base_prefix\nfrom pawl import tracking\nprint(tracking.empty().parent)"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/.pawl\n"), done.stderr
    assert "INFO" not in done.stderr
    assert [path.suffix for path in (tmp_path / ".pawl").iterdir()] == [".db"]


def test_what_no_stage_reads_may_change_under_a_run(registry):
    change(registry.path / "params.yaml", {"drift.effect": 0.2, "retrain.auto_merge": False})
    registry.do("track")
    change(registry.path / "params.yaml", {"drift.effect": 0.3, "retrain.auto_merge": True})

    said = registry.do("track", environ={"NOTE": "wider"})

    ((run, _),) = registry.runs
    assert f"Run {run} (known) is in " in said
    assert registry.values("tags", run)["mlflow.note.content"] == "wider"
