"""The stack of compose.yaml on an engine: one command up, nothing lost by whoever is killed, nothing lost by a backup that is restored."""

import json
import os
import re
import sys
import time
import urllib.request
import uuid

import pytest

from pawl import tracking

pytestmark = pytest.mark.e2e
IMAGES = {"POSTGRES_IMAGE": "postgres:17", "S3_IMAGE": "versity/versitygw:v1.8.0", "PROMETHEUS_IMAGE": "prom/prometheus:v2.53.3"}  # fmt: skip
PORTS = ("MLFLOW_PORT", "S3_PORT", "MODEL_PORT", "PROMETHEUS_PORT")


@pytest.fixture(scope="module")
def stack(project):
    """The project with its stack up: `environ` is that of a user, `up` what `make up` said."""
    lenient = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}
    (project.path / "gates.yaml").write_text(json.dumps(lenient))
    project.commit("lenient gates")
    ports = {name: str(tracking.free_port()) for name in PORTS}
    own = {"MLFLOW_IMAGE": "pawl-e2e-mlflow", "TRAINER_IMAGE": "pawl-e2e-trainer"}
    given = {name: os.environ.get(name, image) for name, image in IMAGES.items()}
    project.stack = {**given, **own, **ports, "COMPOSE_PROJECT_NAME": f"pawl-{uuid.uuid4().hex[:8]}"}
    head = project.call("git", "rev-parse", "HEAD").stdout
    project.stack["MODEL_IMAGE"] = f"pawl:{head[:12]}"  # what `make up` builds
    project.uri = f"http://127.0.0.1:{ports['MLFLOW_PORT']}"
    try:
        project.up = project.call("make", "up", **project.stack).stdout
        yield project
    finally:
        project.call("make", "down", "ARGS=--volumes", check=False, **project.stack)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_one_command_brings_it_up_and_says_every_address(stack):
    said = dict(re.findall(r"^(\S+) +(http://\S+)$", stack.up, re.MULTILINE))
    listening = stack.call("docker", "compose", "ps", "--format", "{{.Ports}}", **stack.stack).stdout

    assert set(said) == {"mlflow", "s3", "model", "prometheus"}
    assert get(f"{said['mlflow']}/health") == "OK"
    assert "OK" in get(f"{said['s3']}/health")
    assert json.loads(get(f"{said['model']}/version"))["digest"].startswith("sha256:")
    assert get(f"{said['prometheus']}/-/ready")
    assert "0.0.0.0" not in listening
    for _ in range(60):
        if '"health":"up"' in get(f"{said['prometheus']}/api/v1/targets"):
            break
        time.sleep(1)
    else:
        raise AssertionError("Prometheus does not reach the service")


def test_no_password_is_where_others_can_read_it(stack):
    words = ["docker", "compose", "exec", "-T", "postgres", "cat", "/run/secrets/env"]
    secrets = set(re.findall(r"=([0-9a-f]{48})", stack.call(*words, **stack.stack).stdout))
    names = stack.call("docker", "compose", "ps", "--quiet", **stack.stack).stdout.split()
    shown = stack.call("docker", "inspect", *names).stdout
    for name in names:
        logged = stack.call("docker", "logs", name)
        shown += logged.stdout + logged.stderr

    assert len(secrets) == 3
    assert [each for each in secrets if each in shown] == []
    assert [path for path in stack.path.rglob("*") if path.is_file() and any(each.encode() in path.read_bytes() for each in secrets)] == []  # fmt: skip


def test_whoever_is_killed_nothing_is_lost_and_a_backup_brings_it_all_back(stack, held):
    registered = stack.call("make", "run", MLFLOW_TRACKING_URI=stack.uri).stdout
    stack.call(sys.executable, "-m", "scripts.promote", MLFLOW_TRACKING_URI=stack.uri)
    head = stack.call("git", "rev-parse", "HEAD").stdout.strip()
    trainer = "docker", "compose", "run", "--build", "--rm", "trainer"
    trained = stack.call(*trainer, **stack.stack, COMMIT=head).stdout
    before = held(stack, stack.uri)

    assert f"pawl version 1 is in {stack.uri} (new; candidate)" in registered
    last = re.search(r"pawl version (\d) is in http://mlflow:5000 \(.*candidate", trained)[
        1
    ]  # another Python may train another model
    assert {alias: number for number, each in before["versions"].items() for alias in each["aliases"]} == {"champion": "1", "candidate": last}  # fmt: skip
    assert len(before["files"]) > 40

    asked = f"{stack.uri}/api/2.0/mlflow/registered-models/get?name=pawl"
    told = get(asked)
    for service in ("postgres", "s3", "mlflow", "model", "prometheus"):
        stack.call("docker", "compose", "--profile", "serve", "kill", service, **stack.stack)
        stack.call("docker", "compose", "--profile", "serve", "up", "--detach", "--wait", **stack.stack)
        assert get(asked) == told, service
    assert held(stack, stack.uri) == before

    commands = re.findall(r"^#   (docker compose .*)$", (stack.path / "compose.yaml").read_text(), re.MULTILINE)
    backup, restore = (commands[:2], commands[2:])
    assert [words.split()[5] for words in backup] == ["pg_dump", "tar"]
    for line in backup:
        stack.call("sh", "-c", line, **stack.stack)
    stack.call("make", "down", "ARGS=--volumes", **stack.stack)
    stack.call("make", "up", **stack.stack)
    assert held(stack, stack.uri) == {"versions": {}, "files": {}}
    for line in restore:
        stack.call("sh", "-c", line, **stack.stack)
    stack.call("make", "up", **stack.stack)  # until it answers
    assert held(stack, stack.uri) == before
    assert "registered before" in stack.call(sys.executable, "-m", "scripts.register", MLFLOW_TRACKING_URI=stack.uri, GITHUB_OUTPUT=os.devnull).stdout  # fmt: skip


def test_a_gpu_and_grafana_are_asked_for_by_name(stack):
    def services(*profiles):
        words = [word for name in profiles for word in ("--profile", name)]
        config = stack.call("docker", "compose", *words, "config", "--format", "json", **stack.stack).stdout
        return json.loads(config)["services"]

    assert set(services()) == {"postgres", "s3", "mlflow", "prometheus"}
    assert services("gpu")["trainer-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert "grafana" in services("monitoring")
