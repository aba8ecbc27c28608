"""Rules and dashboard, held to what service and exporter really export. That the rules fire: e2e/test_monitoring.py."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from pawl.ledger import Release
from pawl.serving.counts import REASONS, Counts
from scripts import exporter

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s/components/monitoring/cluster"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
WORDS = {"and", "or", "unless", "offset", "by", "on", "ignoring", "group_left", "bool"}
PALETTE = {"#8a8a8a", "#0072b2", "#e69f00", "#d55e00", "#009e73"}


def names(expr):
    """Return the metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|group_left)\s*\([^)]*\)|\b(offset|group_left)\s+\d+\w', " ", re.sub(r'"[^"]*"', "", expr))  # fmt: skip
    return set(re.findall(r"\b(?<![\d.])[a-z_][\w:]*\b(?!\s*\()", bare)) - WORDS


class Kept:
    """A ledger with a release."""

    def fetch(self, header):
        pass

    def champion(self):
        return Release(commit="a" * 40, version="1", digest="sha256:1", made="2026-01-31T00:00:00Z")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The names of all samples of a service that has answered, and of an exporter that has found everything."""
    folder = tmp_path_factory.mktemp("exported")
    registry = CollectorRegistry()
    counts = Counts(["no", "yes"], [], {"age": [0, 9]}, {"model_version": "1", "digest": "", "commit": ""})
    counts.answered([[99]], ["yes"], [[0.2, 0.8]], 0.001)
    registry.register(counts)
    performance = {"metric": "accuracy", "current": {"value": 0.7}, "loss": 0.1, "low": 0.05}
    drift = {"verdict": "drift", "window": {"until": "2026-01-31T00:00:00Z"}, "drift_share": 0.5, "performance": performance}  # fmt: skip
    (folder / "drift.json").write_text(json.dumps(drift))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "models").mkdir()
        (folder / "models/made_by.json").write_text('{"ended": 1}')
        patch.setattr(exporter, "Ledger", Kept)
        patch.setattr(exporter.github, "repository", lambda _: None)
        patch.setattr(exporter.github, "ask", lambda *_: {"workflow_runs": [{"conclusion": "success"}]})
        sources = {"drift": lambda: exporter.drift("drift.json"), "model": exporter.trained, "ledger": lambda: exporter.released({}), "log": exporter.Rows(str(folder)), "retrain": lambda: exporter.retrain({})}  # fmt: skip
        found = exporter.Exporter(sources)
        found.look()
    registry.register(found)
    text = generate_latest(registry).decode()
    assert 'exporter_source_up{source="' in text
    assert '"} 0.0' not in text.partition("exporter_source_up")[2].partition("# HELP")[0]
    return {re.match(r"\w+", line)[0] for line in text.splitlines() if line[0] != "#"}


RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def test_the_names_of_an_expression_are_found():
    expr = 'sum by (a, b) (rate(x_total{c="up"}[5m] offset 1d)) / on (a) group_left y:z > 2 * 86400 unless resets(q[1d]) > 0'

    assert names(expr) == {"x_total", "y:z", "q"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_is_exported(rule, exported):
    assert names(rule["expr"]) - {"up"} <= exported | RECORDED
    assert set(re.findall(r'reason="(\w+)"', rule["expr"])) <= set(REASONS)
    assert set(re.findall(r'verdict="([\w ]+)"', rule["expr"])) <= set(exporter.VERDICTS)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do_by_commands_that_there_are(rule):
    said = rule["annotations"]
    scripts = re.findall(r"python -m scripts\.(\w+)([^`]*)", said["description"])

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(said) == {"summary", "description"}
    assert re.search("`|standard error|reports/", said["description"])
    for name, words in scripts:
        source = (ROOT / "scripts" / f"{name}.py").read_text() if name not in {"drift", "labels", "smoke"} else ""
        if source:
            assert [word for word in re.findall(r"--[a-z-]+", words) if f'"{word}"' not in source] == [], name


def test_what_is_recorded_is_used():
    used = set().union(*(names(rule["expr"]) for rule in RULES), *(names(each["expr"]) for panel in PANELS for each in panel["targets"]))  # fmt: skip

    assert used >= RECORDED


def test_a_panel_asks_for_what_is_exported_and_has_a_number_of_its_own(exported):
    annotations = DASHBOARD["annotations"]["list"]

    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for each in [*annotations, *(target for panel in PANELS for target in panel["targets"])]:
        assert names(each["expr"]) - {"ALERTS"} <= exported | RECORDED, each["expr"]
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        assert at["y"] + at["h"] <= 21  # one screen
    assert {color.lower() for color in re.findall(r"#[0-9a-fA-F]{6}", json.dumps(DASHBOARD))} <= PALETTE


def test_compose_and_the_cluster_load_these_files():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    prometheus, grafana = (compose["services"][name]["configs"] for name in ("prometheus", "grafana"))
    generated = {each["name"]: each["files"] for each in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]}  # fmt: skip
    targets = {each["source"]: each["target"] for each in [*prometheus, *grafana]}
    files = {name: Path(each["file"]).name for name, each in compose["configs"].items() if "file" in each}

    assert files == {"rules": "rules.yaml", "dashboard": "dashboard.json"}
    assert all((ROOT / each["file"]).is_file() for each in compose["configs"].values() if "file" in each)
    assert generated == {"pawl-rules": ["rules.yaml"], "pawl-dashboard": ["pawl.json=dashboard.json"]}
    assert yaml.safe_load(compose["configs"]["prometheus"]["content"])["rule_files"] == [targets["rules"]]
    (provider,) = yaml.safe_load(compose["configs"]["dashboards"]["content"])["providers"]
    assert Path(targets["dashboard"]).parent == Path(provider["options"]["path"])
