"""Fresh data: the champion is asked first; what pins the data moves; what is proposed is judged against what is served."""

import json
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
import yaml

from pawl import bundle, config, paths
from scripts import baseline, retrain


@pytest.fixture
def served(registry):
    """A project whose model is the champion, and whose commit names what it was made of."""
    registry.git("add", "--force", "dvc.lock")
    registry.commit("as it ran")
    registry.do("register")
    registry.do("promote", "--version", "1")
    return registry


def outputs(project):
    return {path: path.read_bytes() for path in sorted((project.path / "data").rglob("*.parquet"))}


def params(project, **values):
    """Commit other values of params.yaml, by dotted key."""
    told = yaml.safe_load((project.path / "params.yaml").read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        place = told
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    (project.path / "params.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    project.git("commit", "--quiet", "--all", "--message", "another month")


def test_without_new_data_nothing_runs_and_nothing_changes(served):
    before = (served.path / "params.yaml").read_text(), served.git("rev-parse", "HEAD")

    assert "The data are those that dvc.lock names: nothing to retrain on." in served.do("retrain")
    assert "nothing to retrain on" in served.do("retrain", "--check")
    assert ((served.path / "params.yaml").read_text(), served.git("rev-parse", "HEAD")) == before


def test_a_champion_that_is_as_good_on_fresh_rows_stays(served):
    params(served, **{"ingest.sample.seed": 1, "drift.min_rows": 100})
    before = (served.path / "models/bundle/manifest.json").read_text()

    there = outputs(served)
    told = served.do("retrain")

    assert "The champion, version 1, is good enough: " in told
    assert "fresh rows" in told
    assert (served.path / "models/bundle/manifest.json").read_text() == before
    assert "params.yaml" not in served.git("status", "--porcelain")
    assert "dvc.lock" not in served.git("status", "--porcelain")
    assert outputs(served) == there


def test_too_few_fresh_rows_are_told_and_judge_nothing(served):
    params(served, **{"ingest.sample.seed": 1, "drift.min_rows": 10**6})

    assert "of 1,000,000 that are needed to judge it" in served.do("retrain", "--check")


def test_where_the_champion_fell_what_is_trained_is_judged_against_it_and_may_be_committed(served):
    params(
        served,
        **{
            "ingest.sample.seed": 1,
            "ingest.sample.drift": 1.0,
            "drift.min_rows": 100,
            "drift.max_loss": 0.0,
            "drift.level": 0.9,
        },
    )

    asked = served.do("retrain", "--check", code=1)
    told = served.do("retrain")

    assert "is no longer good enough: roc_auc is" in told
    assert "next: git switch --create retrain && git commit params.yaml dvc.lock reports/metrics.json" in told
    assert asked == ""  # the verdict is no error
    report = json.loads((served.path / "reports/report.json").read_text())
    assert report["candidate"]["digest"] != served.versions["1"]["pawl.digest"]
    assert served.aliases["champion"] == "1"


def test_without_a_champion_what_is_trained_is_the_first(registry):
    params(registry, **{"ingest.sample.seed": 1})

    registry.do("retrain", "--check", code=1)


def test_a_failure_leaves_params_as_they_were(served):
    params(served, **{"ingest.digest": "sha256:" + "0" * 64, "ingest.source": "gone.csv"})
    before = (served.path / "params.yaml").read_text()

    assert "gone.csv" in served.do("retrain", code=2)
    assert (served.path / "params.yaml").read_text() == before


def test_what_pins_the_data_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    found = config.load(retrain.Path(__file__).parents[2] / paths.PARAMS)
    ingest = config.Ingest(source="data.csv", digest="sha256:old")

    values = retrain.pins(config.msgspec.structs.replace(found, ingest=ingest), "2026-11-22")
    windowed = config.Ingest(source="data.csv", sql=config.Sql(days=90, until="2026-01-01"))

    assert values["ingest.digest"] not in {"sha256:old", None}
    assert retrain.pins(config.msgspec.structs.replace(found, ingest=windowed), "2026-11-22") == {
        "ingest.sql.until": "2026-11-22"
    }
    assert (
        retrain.pins(config.msgspec.structs.replace(found, ingest=config.Ingest(source="data.csv")), "2026-11-22") == {}
    )


def test_stages_find_their_python_whatever_path_says(served):
    params(served, **{"ingest.sample.seed": 1, "drift.min_rows": 100})
    environ = served.environ | {"PATH": "/usr/bin:/bin"}

    words = [sys.executable, "-m", "scripts.retrain", "--check"]
    done = subprocess.run(words, cwd=served.path, env=environ, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "is good enough" in done.stdout


def test_killed_in_the_middle_the_next_look_puts_back_what_was(served):
    there = outputs(served)
    params(served, **{"ingest.sample.seed": 1, "drift.min_rows": 100})
    left = retrain.run.kept("retrain")
    left.__enter__()  # and nothing after it, as after SIGKILL
    served.edit("params.yaml", "seed: 1", "seed: 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DVC's
        assert retrain.run.main(["prepare"]) == 0

    assert outputs(served) != there
    served.do("retrain", "--check")
    assert outputs(served) == there
    assert "seed: 2" in (served.path / "params.yaml").read_text()  # somebody may have edited it since


def test_the_image_that_runs_the_pipeline_does_not_take_away_what_is_put_back(served, monkeypatch):
    params(served, **{"ingest.sample.seed": 1, "drift.min_rows": 100})
    there, before = outputs(served), (served.path / "params.yaml").read_text()

    def inside(words):  # as Dockerfile.train's container does on this folder: a process of its own
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=served.path, env=served.environ, check=False
        ).returncode

    monkeypatch.setattr(retrain.in_image, "main", inside)

    assert "is good enough" in served.do("retrain", environ={"IN": "image"})
    assert outputs(served) == there
    assert (served.path / "params.yaml").read_text() == before


class Runs:
    """GitHub's retrain.yml, as far as it is asked."""

    def __init__(self, *runs):
        self.runs, self.started = [type("Run", (), each) for each in runs], []

    def __call__(self, _environ):
        return self

    def get_workflow(self, name):
        assert name == "retrain.yml"
        return self

    def get_runs(self, event):
        assert event == "workflow_dispatch"  # the schedule's own do not hold it back
        return self.runs

    def create_dispatch(self, ref, inputs, *, throw):
        assert throw
        self.started.append((ref, inputs))


def run_of(days, status="completed"):
    return {
        "created_at": datetime.now(UTC) - timedelta(days=days),
        "status": status,
        "html_url": "https://github.com/run/1",
    }


RUNS = {"none": ([], True, "Started"), "long ago": ([run_of(4)], True, "Started"), "yesterday": ([run_of(1)], False, "started 1.0 days ago"), "going on": ([run_of(9, "in_progress")], False, "going on already")}  # fmt: skip


@pytest.mark.parametrize(("runs", "starts", "said"), RUNS.values(), ids=RUNS)
def test_drift_starts_one_retraining_and_not_another_within_the_cooldown(monkeypatch, capsys, runs, starts, said):
    hub = Runs(*runs)
    monkeypatch.setattr(retrain.github, "repository", hub)

    assert retrain.main(["--dispatch"], {"GITHUB_REF_NAME": "main"}) == 0
    assert hub.started == ([("main", {})] if starts else [])
    assert said in capsys.readouterr().out


def test_two_at_once_are_one(served):
    with retrain.run.only_run("retrain.lock"):
        assert "another run of this project is going on" in served.do("retrain", code=3)
    assert served.git("status", "--porcelain", "params.yaml", "dvc.lock") == ""


def test_a_bundle_that_the_code_here_lets_answer_otherwise_is_not_scored(modelled, monkeypatch):
    monkeypatch.chdir(modelled.path)
    loaded = bundle.load(paths.BUNDLE)
    table = pq.read_table(paths.PREPARED / "test.parquet")
    asked = (loaded.manifest["target"], loaded.manifest["labels"], table)
    first, *others = loaded.golden["probabilities"]
    otherwise = loaded._replace(golden={**loaded.golden, "probabilities": [first[::-1], *others]})

    assert baseline.unread(loaded, *asked) == ""
    assert (
        baseline.unread(otherwise, *asked) == "it answers 1 of its golden rows otherwise by the src/task that is here"
    )


def test_on_other_rows_than_mains_the_released_model_is_the_baseline_with_its_size(served):
    gates = {"roc_auc": {"direction": "higher", "floor": 0.5, "max_regression": 0.05}, "model_bytes": {"direction": "lower", "max_regression": "400%"}}  # fmt: skip
    (served.path / "gates.yaml").write_text(yaml.safe_dump({"version": 1, "metrics": gates}))
    served.git("remote", "remove", "origin")
    served.commit("gates")
    served.do("report")
    served.do("ledger", "record")
    served.do("ledger", "release", "--version", "1", "--digest", served.versions["1"]["pawl.digest"])
    params(served, **{"ingest.sample.seed": 1, "ingest.sample.drift": 1.0, "drift.min_rows": 100, "drift.max_loss": 0.0, "drift.level": 0.9})  # fmt: skip

    served.do("retrain")
    told = served.do("report", "--base", "HEAD", "--no-train")  # as it is on GitHub

    report = json.loads((served.path / "reports/report.json").read_text())
    judged = {each["metric"]: each["verdict"] for each in report["judged"]}
    assert (report["baseline"]["name"], report["baseline"]["how"]) == ("champion, version 1", "registry")
    assert report["champion"] is None  # it stands once
    assert judged["model_bytes"] in {"unchanged", "pass", "improved"}, told
