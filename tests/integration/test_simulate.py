"""Months go by: quiet ones stay quiet, drift is seen in the month that brings it, one pull request comes of it, and what was lost is back."""

import json
import subprocess

import pytest

from scripts import simulate

pytestmark = pytest.mark.e2e


def test_drift_is_seen_within_its_month_and_becomes_one_pull_request(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate, "HOME", tmp_path / "simulate")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "served" / hub.name)], check=True)
    github = {"GITHUB_API_URL": hub.url, "GITHUB_SERVER_URL": f"file://{tmp_path / 'served'}", "GITHUB_REPOSITORY": hub.name, "GH_TOKEN": "a token"}  # fmt: skip

    code = simulate.main(["--months", "3", "--drift-from", "2", "--to", str(tmp_path / "to")], github)

    said = capsys.readouterr()
    assert code == 0, said.err
    found = json.loads((tmp_path / "to/simulation.json").read_text())
    assert [each["verdict"] for each in found["months"]] == ["no drift", "drift", "no drift"]
    assert found["retrained"] == [2]
    assert found["last / first month"] > 0.98
    assert found["last / first month, never retrained"] < 0.92
    (pull,) = hub.pulls
    assert pull["title"].startswith("Retrain: ")
    assert pull["body"].startswith("**Why**: The champion, version 1, is no longer good enough: roc_auc is")
    assert (tmp_path / "to/simulation.svg").read_text().startswith("<svg")
