"""The rules: by promtool, on series that were written for them; and a Prometheus that scrapes a service and an exporter, until alerts fire."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
import yaml

from pawl import tracking

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("PROMETHEUS_IMAGE", "prom/prometheus:v2.53.3")
FOLDER = ROOT / "k8s/components/monitoring/cluster"
RULES = (FOLDER / "rules.yaml").read_text()
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"] if "alert" in rule]
DAYS = "model-days"
LIMIT = re.compile(r"(==|>|<) ([\d.]+)")
# Of each folder, named after what is run of the tests: does promtool take the rules, and do they pass?
EACH = "cd /tmp && tar xf - && for each in */; do (cd $each && promtool check rules rules.yaml && promtool test rules --run=^${each%%-*} rules_test.yaml) > out 2>&1 && echo $each passed || { echo $each failed; tail -n 30 out >&2; }; done"
DRIFT = {"verdict": "drift", "window": {"until": "2026-01-31T00:00:00Z"}, "drift_share": 0.25, "performance": None}


def moved(name, way):
    """Return what of the tests to run, and the rules with an alert's limit out of what fires (way 0), or within what is quiet (way 1)."""
    rules = yaml.safe_load(RULES)
    (rule, days), *_ = [(rule, group["name"] == DAYS) for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == name]  # fmt: skip
    rules["groups"] = [
        group for group in rules["groups"] if (group["name"] == DAYS) == days
    ]  # each takes the other's tests long
    sign, limit = LIMIT.search(rule["expr"]).groups()
    factor = 3 if (sign == ">") == (way == 0) else 1 / 3
    by = {"==": ("== 17", ">= 0"), ">": ("> 1e9", "> -1")} if not float(limit) or sign == "==" else {sign: (f"{sign} {float(limit) * factor}",) * 2}  # fmt: skip
    rule["expr"] = LIMIT.sub(by[sign][way], rule["expr"], count=1)
    return f"{'days' if days else 'minutes'}-{name}-{way}", yaml.safe_dump(rules)


def test_every_alert_fires_and_is_silent_where_its_limit_says():
    """Every limit that is moved by a factor of three, to either side, turns a test red."""
    trees = {"days": RULES, "minutes": RULES} | dict(moved(name, way) for name in ALERTS for way in (0, 1))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, rules in trees.items():
            for file, text in {
                "rules.yaml": rules,
                "rules_test.yaml": (FOLDER / "rules_test.yaml").read_text(),
            }.items():
                entry = tarfile.TarInfo(f"{name}/{file}")
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
    words = ["docker", "run", "--rm", "--interactive", "--network", "none", "--entrypoint", "sh", IMAGE, "-c", EACH]

    done = subprocess.run(words, check=False, capture_output=True, input=packed.getvalue())

    said = dict(line.split("/ ") for line in done.stdout.decode().splitlines())
    assert said == {name: "failed" if "-" in name else "passed" for name in trees}, done.stderr.decode()[-3000:]


class Watched:
    """A Prometheus whose windows are seconds, and what it scrapes."""

    def __init__(self, project, folder):
        self.folder, self.started, self.name = folder, {}, f"pawl-{uuid.uuid4().hex[:8]}"
        self.model, self.port = tracking.free_port(), tracking.free_port()
        log = {"PAWL_LOG_DIR": str(folder / "log"), "PAWL_LOG_SEGMENT_BYTES": "3000", "PAWL_LOG_MAX_BYTES": "9000"}
        place = {"PAWL_BUNDLE": str(project.path / "models/bundle"), "PAWL_PORT": str(self.model), "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
        self.start("model", "pawl.serving", PAWL_HOST="127.0.0.1", **log, **place)
        command = ("scripts.exporter", "--port", "0", "--every", "0.5", "--log", str(folder / "log"))
        exporter = self.start("exporter", *command, PYTHONPATH=place["PYTHONPATH"]).stdout.readline().split("/")[2]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [at]}]}
                for name, at in (("model", f"127.0.0.1:{self.model}"), ("exporter", exporter))
            ],
        }
        (folder / "etc").mkdir()
        (folder / "etc/prometheus.yml").write_text(yaml.safe_dump(settings))
        rules = re.sub(r"\b(for|interval): \d+[mh]", r"\1: 1s", re.sub(r"\[(5|15)m\]", "[10s]", RULES))
        (folder / "etc/rules.yaml").write_text(rules)
        words = ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", f"--web.listen-address=127.0.0.1:{self.port}"]  # fmt: skip
        for command in (("create", "--name", self.name, "--network", "host", IMAGE, *words), ("cp", f"{folder}/etc/.", f"{self.name}:/etc/prometheus"), ("start", self.name)):  # fmt: skip
            subprocess.run(["docker", *command], check=True, capture_output=True)

    def start(self, name, *module, **environ):
        with (self.folder / f"{name}.err").open("w") as errors:
            self.started[name] = subprocess.Popen([sys.executable, "-m", *module], cwd=self.folder, env={"PATH": os.environ["PATH"], **environ}, stdout=subprocess.PIPE, stderr=errors, text=True)  # fmt: skip
        return self.started[name]

    def ask(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def until(self, holds):
        """Return the names of the alerts that fire, once that holds."""
        found = "nothing answered"
        for _ in range(120):
            time.sleep(0.5)
            try:
                found = {
                    each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"
                }
                if holds(found):
                    return found
            except OSError:  # it begins
                continue
        raise AssertionError(found, (self.folder / "model.err").read_text()[-2000:])

    def health(self):
        return [each["health"] for each in self.ask("targets")["activeTargets"]]

    def end(self):
        for each in self.started.values():
            each.kill()
            each.communicate()
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], check=False, capture_output=True)


@pytest.fixture
def watched(project, tmp_path):
    made = Watched(project, tmp_path)
    yield made
    made.end()


def test_a_prometheus_hears_of_drift_of_rows_that_were_dropped_and_of_who_does_not_answer(watched, project):
    golden = json.loads((project.path / "models/bundle/golden.json").read_text())
    asked = json.dumps(golden["records"][:50]).encode()
    watched.until(lambda _: watched.health() == ["up", "up"])
    assert watched.until(lambda _: watched.ask("query?query=model_info")["result"]) == set()

    (watched.folder / "log/history.jsonl").write_text(json.dumps(DRIFT) + "\n")  # where scripts.drift keeps it
    for _ in range(10):
        request = urllib.request.Request(f"http://127.0.0.1:{watched.model}/predict", asked, {"Content-Type": "application/json"})  # fmt: skip
        urllib.request.urlopen(request, timeout=10).read()
    watched.until(lambda firing: {"DataDrift", "LogDropsRows"} <= firing)

    watched.started["exporter"].kill()
    watched.until(lambda firing: "TargetDown" in firing)
