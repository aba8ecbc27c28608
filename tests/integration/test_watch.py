"""What a day's look at the predictions leads to: nothing without a log, an issue and a retraining where they drifted, the issue closed where they did not."""

import json

import pytest

from pawl import ledger as book
from scripts import ledger, watch

GITHUB = {"GITHUB_REPOSITORY": "octo/model", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_RUN_ID": "7", "GH_TOKEN": "a token"}  # fmt: skip


@pytest.fixture
def day(tmp_path, monkeypatch):
    """Return a function that lets a day have a verdict; it returns what was done, in order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()

    def play(verdict, environ, *words):
        done = []

        def compared(given):
            done.append(("drift", *given))
            watch.drift.OUT.write_text(json.dumps({"verdict": verdict, "headline": f"{verdict}: age"}))
            watch.drift.OUT.with_suffix(".md").write_text("### age\n")
            return 0

        monkeypatch.setattr(watch.ledger, "locked", lambda _: "the lock of what is served")
        monkeypatch.setattr(watch, "brought", lambda: done.append(("brought",)))
        monkeypatch.setattr(watch.drift, "main", compared)
        monkeypatch.setattr(watch.notify, "notify", lambda *given: done.append(("told", *given[:4])))
        monkeypatch.setattr(watch.notify, "main", lambda given, _: done.append(("closed", *given)) or 0)
        monkeypatch.setattr(watch.retrain, "main", lambda given, _: done.append(("retrain", *given)) or 0)
        assert watch.main(words, environ) == 0
        return done

    return play


def test_without_a_log_nothing_is_watched_and_the_summary_says_what_lights_it_up(day, tmp_path):
    assert day("drift", {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}) == []
    assert "PREDICTION_LOG" in (tmp_path / "summary.md").read_text()


def test_drift_is_told_with_the_run_and_asks_for_a_retraining(day):
    done = day("drift", GITHUB | {"PREDICTION_LOG": "s3://b/log", "LABELS": "l.csv"}, "--last", "30d")

    assert done == [
        ("brought",),
        ("drift", "--log", "s3://b/log", "--last", "30d", "--labels", "l.csv"),
        ("told", "drift", "drift: age", "### age\n", "https://github.com/octo/model/actions/runs/7"),
        ("retrain", "--dispatch"),
    ]


def test_no_drift_closes_the_issue_and_too_little_data_leaves_it(day):
    watched = GITHUB | {"PREDICTION_LOG": "log"}

    assert day("no drift", watched)[-1] == ("closed", "--event", "drift", "--resolved", "--title", "no drift: age")
    assert day("insufficient data", watched)[-1][0] == "drift"


def test_elsewhere_than_on_github_drift_is_told_and_starts_nothing(day):
    assert [each[0] for each in day("drift", {"PREDICTION_LOG": "log"})] == ["brought", "drift", "told"]


class Kept:
    """A ledger in which one commit was released."""

    def __init__(self, *, released=True, lock=b"schema: '2.0'\n"):
        self.released, self.lock = released, lock

    def champion(self):
        return book.Release("c" * 40, "3", "sha256:" + "0" * 64) if self.released else None

    def commits(self):
        return {"c" * 40}

    def entry(self, commit):
        return commit

    def file(self, _entry, name):
        assert name == "dvc.lock"
        return self.lock


def test_the_lock_of_what_is_served_is_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert "dvc.lock stays as it is" in ledger.locked(Kept(released=False))
    assert "dvc.lock stays as it is" in ledger.locked(Kept(lock=None))
    assert not (tmp_path / "dvc.lock").exists()
    assert ledger.locked(Kept()).startswith("dvc.lock is that of release 3-")
    assert (tmp_path / "dvc.lock").read_text() == "schema: '2.0'\n"
