"""compose.yaml and the components of k8s/, read as they are written: e2e/test_training_job.py renders and runs them."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OWN = {"pawl", "pawl-mlflow", "pawl-trainer"}  # built here
DIGEST = re.compile(r"[\w./-]+:v?\d[\w.]*@sha256:[0-9a-f]{64}")
SECRET = re.compile(r"password|secret|token|key", re.IGNORECASE)
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_a_variable_whose_default_is_pinned_or_built_here(name):
    service = SERVICES[name]
    default = re.fullmatch(r"\$\{[A-Z0-9]+_IMAGE:-(.+)\}", service["image"])[1]

    assert default in OWN or DIGEST.fullmatch(default)
    assert default not in OWN or "build" in service or service["pull_policy"] == "never"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_no_capabilities_and_ports_on_loopback_alone(name):
    service = SERVICES[name]

    assert service["healthcheck"].get("test") or {"train", "gpu"} & set(service["profiles"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z0-9]+_PORT:-\d+\}:\d+", port) for port in service.get("ports", []))


def test_what_is_kept_has_a_volume_and_no_secret_is_written_down():
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}

    assert used == set(COMPOSE["volumes"])
    for service in SERVICES.values():
        assert not {name: value for name, value in (service.get("environment") or {}).items() if SECRET.search(name) and value}  # fmt: skip


FOUND = {
    (each["kind"], each["metadata"]["name"]): each
    for folder in ("mlflow", "training")
    for path in (ROOT / "k8s/components" / folder).glob("*.yaml")
    for each in yaml.safe_load_all(path.read_text())
    if path.name != "kustomization.yaml"
}
PODS = {key: each["spec"]["template"] for key, each in FOUND.items() if "template" in each.get("spec", {})}


@pytest.mark.parametrize("key", PODS)
def test_a_pod_is_restricted_pinned_probed_and_has_its_policy(key):
    spec, labels = PODS[key]["spec"], PODS[key]["metadata"]["labels"]
    policies = [each["spec"] for (kind, _), each in FOUND.items() if kind == "NetworkPolicy"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert any(each["podSelector"]["matchLabels"].items() <= labels.items() for each in policies)
    for container in spec["containers"]:
        assert container["securityContext"] == RESTRICTED
        assert container["image"] in {"mlflow", "trainer"} or DIGEST.fullmatch(container["image"])
        assert {"requests", "limits"} == set(container["resources"])
        assert key[0] == "Job" or {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        literal = {each["name"] for each in container["env"] if "value" in each and SECRET.search(each["name"])}
        assert literal <= {"ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}  # names of users


def test_no_component_holds_a_secret():
    assert len(PODS) == 4
    assert not [key for key in FOUND if key[0] == "Secret"]


def test_training_runs_at_two_once_at_a_time_and_is_tried_again():
    cron, job = FOUND["CronJob", "train"]["spec"], FOUND["Job", "train"]["spec"]
    container = job["template"]["spec"]["containers"][0]

    assert (cron["schedule"], cron["concurrencyPolicy"]) == ("0 2 * * *", "Forbid")
    assert (cron["successfulJobsHistoryLimit"], cron["failedJobsHistoryLimit"]) == (3, 3)
    assert job["backoffLimit"] == 3
    assert job["activeDeadlineSeconds"] > 0
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in job["template"]["spec"]["volumes"]
    assert all(each["valueFrom"]["secretKeyRef"]["optional"] for each in container["env"])
    assert "command" not in container  # the image's copies the project into the volume
    assert (ROOT / f"{container['args'][-1].replace('.', '/')}.py").exists()


def test_both_say_the_same_images():
    text = (ROOT / "k8s/components/mlflow/postgres.yaml").read_text() + (ROOT / "k8s/components/mlflow/s3.yaml").read_text()  # fmt: skip

    for name in ("postgres", "s3"):
        assert DIGEST.search(SERVICES[name]["image"].partition(":-")[2])[0] in text
