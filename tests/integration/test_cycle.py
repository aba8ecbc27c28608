"""`scripts.cycle`: one step after the other, each once per window, and predictions whatever became of the rest."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import cycle

WINDOW = "2026-01-31"


class Steps(dict):
    """Steps that note what they were asked; ends: {step: its exit codes, one after the other, or an exception}."""

    def __init__(self, **ends):
        self.asked, self.ends = [], {name: list(codes) for name, codes in ends.items()}
        super().__init__({name: self.step(name) for name in ("prepare", "check", "retrain", "predict")})

    def step(self, name):
        def act(words):
            self.asked.append(name)
            end = self.ends[name].pop(0) if self.ends.get(name) else 0
            if isinstance(end, BaseException):
                raise end
            if name == "predict" and end == 0:
                to = Path(words[words.index("--to") + 1])
                to.write_text(" ".join(words[2:]) or "rows")
                Path(f"{to}.json").write_text('{"rows": 1, "model": {"version": "3"}}')
            return end

        return act


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "published"


def go(place, steps, *words):
    return cycle.main(["--to", place.as_uri(), "--window", WINDOW, *words], {}, steps)


def published(place):
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def test_a_champion_that_is_good_enough_predicts_and_is_published_under_the_window(place, capsys):
    steps = Steps()

    assert go(place, steps, "--from", "new.csv") == 0

    assert steps.asked == ["prepare", "check", "predict"]
    assert published(place) == {f"{WINDOW}/predictions.parquet", f"{WINDOW}/predictions.parquet.json", "latest.json"}
    latest = json.loads((place / "latest.json").read_text())
    assert latest["files"] == [f"{WINDOW}/predictions.parquet", f"{WINDOW}/predictions.parquet.json"]
    assert (latest["window"], latest["model"], latest["rows"]) == (WINDOW, {"version": "3"}, 1)
    assert (place / latest["files"][0]).read_text() == "--from new.csv"
    assert "latest.json" in capsys.readouterr().out.splitlines()[-1]


def test_a_champion_that_fell_is_retrained_before_the_predictions_and_said_where_it_is_asked_for(place, capsys):
    steps, again = Steps(check=[1]), Steps()

    assert go(place, steps, "--exit-code") == 1

    assert steps.asked == ["prepare", "check", "retrain", "predict"]
    assert "the champion fell" in capsys.readouterr().out
    assert go(place, again) == 0
    assert again.asked == []
    assert cycle.main(["--to", str(place), "--window", "2026-02-01"], {}, again) == 0
    assert again.asked == ["prepare", "check", "predict"]


@pytest.mark.parametrize(
    ("ends", "left"),
    [({"check": [1], "retrain": [2]}, ["retrain"]), ({"check": [1], "retrain": [-9]}, ["retrain"]), ({"check": [3]}, ["check"]), ({"prepare": [2]}, ["prepare", "check"])],
)  # fmt: skip
def test_predictions_are_delivered_whatever_failed_before_them_and_the_rest_is_tried_again(place, ends, left, capsys):
    assert go(place, Steps(**ends)) == 3

    assert "latest.json" in published(place)
    assert "failed; run" not in capsys.readouterr().out
    again = Steps()
    assert go(place, again) == 0
    assert again.asked == left


def test_a_cycle_that_was_ended_by_a_step_predicts_first_the_next_time(place):
    with pytest.raises(SystemExit):
        go(place, Steps(check=[1], retrain=[SystemExit(137)]))
    assert not place.exists()
    again = Steps()

    assert go(place, again) == 0

    assert again.asked == ["predict", "retrain"]


def test_predictions_that_fail_are_the_cycles_end_and_made_the_next_time(place, capsys):
    assert [go(place, Steps(predict=[code])) for code in (2, 3, -9)] == [2, 3, 3]
    assert not place.exists()
    again = Steps()
    assert go(place, again) == 0
    assert again.asked == ["predict"]


def test_nobody_sees_half_of_what_is_published(place, capsys, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    go(place, Steps())
    before, latest = published(place), (place / "latest.json").read_text()
    move = LocalFileSystem.mv
    monkeypatch.setattr(LocalFileSystem, "mv", lambda self, one, other, **_: (_ for _ in ()).throw(OSError("gone")) if other.endswith(".json") else move(self, one, other))  # fmt: skip

    assert cycle.main(["--to", str(place), "--window", "next"], {}, Steps()) == 3

    assert "predictions were not published: OSError: gone" in capsys.readouterr().err
    assert (place / "latest.json").read_text() == latest
    assert {name for name in published(place) - before if not name.endswith(".partial")} == {"next/predictions.parquet"}
    monkeypatch.setattr(LocalFileSystem, "mv", move)
    again = Steps()
    assert cycle.main(["--to", str(place), "--window", "next"], {}, again) == 0
    assert again.asked == []
    assert json.loads((place / "latest.json").read_text())["window"] == "next"


@pytest.mark.parametrize(
    ("words", "said"), [(["--to", "nothing://x"], "cannot be used"), ([], "not said where"), (["--to", "x", "--window", "../x"], "cannot be the name")]
)  # fmt: skip
def test_a_wrong_word_is_told_before_the_work(place, words, said, capsys):
    steps = Steps()

    assert cycle.main(words, {}, steps) == 2
    assert said in capsys.readouterr().err
    assert steps.asked == []


def test_the_steps_are_scripts_that_are_there(place, monkeypatch):
    called = []
    monkeypatch.setattr(
        cycle.subprocess, "run", lambda words, **_: called.append(words[2:]) or type("Done", (), {"returncode": 0})
    )

    assert [cycle.STEPS[name](["--more"]) for name in cycle.STEPS] == [0, 0, 0, 0]

    assert called == [
        ["scripts.run", "prepare", "--more"],
        ["scripts.retrain", "--check", "--more"],
        ["scripts.retrain", "--more"],
        ["scripts.predict", "--model", "@champion", "--more"],
    ]


@pytest.mark.parametrize(("where", "words"), [({}, []), ({"GITHUB_ACTIONS": "true"}, ["--dispatch"])])
def test_on_github_retraining_is_left_to_the_workflow_that_may(monkeypatch, where, words):
    asked = []
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        cycle.subprocess, "run", lambda command, **_: asked.append(command[2:]) or SimpleNamespace(returncode=0)
    )

    assert cycle.STEPS["retrain"]([]) == 0

    assert asked == [["scripts.retrain", *words]]
