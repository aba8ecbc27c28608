"""What k8s/ asks of a cluster: the numbers, the names that must meet, and the rights. No cluster is needed."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from pawl.serving.server import FORCED_SECONDS
from pawl.serving.settings import Settings

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
KUBECTL = shutil.which("kubectl")
ENVIRONMENTS = {"local": "model", "staging": "model-staging", "production": "model-production"}
OURS = ("model", "smoke")  # of the base; a component's pods are held to what `restricted` and a node want
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
# Without kubectl, which CI must have, the base is read as it is written.
FOLDERS = ["base"]
if KUBECTL or os.environ.get("CI"):
    FOLDERS += [*(f"overlays/{name}" for name in ENVIRONMENTS), *(f"components/{name}" for name in COMPONENTS)]


def render(folder):
    """Return the objects of a folder; a component's on the base."""
    places = {"resources": folder}
    if folder.parent.name == "components":
        places = {"resources": K8S / "base", "components": folder}
    if not KUBECTL:
        return [one for path in sorted(folder.glob("[!k]*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    with tempfile.TemporaryDirectory() as temporary:
        written = {key: [os.path.relpath(path, os.path.realpath(temporary))] for key, path in places.items()}
        Path(temporary, "kustomization.yaml").write_text(yaml.safe_dump(written))
        done = subprocess.run([KUBECTL, "kustomize", temporary], check=True, capture_output=True, text=True)
        return list(yaml.safe_load_all(done.stdout))


class Rendered:
    """The objects of a folder."""

    def __init__(self, folder):
        assert KUBECTL or folder == "base", "kubectl is missing, and CI renders the overlays with it"
        self.all = render(K8S / folder)

    def one(self, kind, name="model"):
        (found,) = [each for each in self.all if (each["kind"], each["metadata"]["name"]) == (kind, name)]
        return found

    def kind(self, kind):
        return [each for each in self.all if each["kind"] == kind]

    @property
    def pods(self):
        """Return the template of every pod, by its owner's kind and name."""
        jobs = {("CronJob", each["metadata"]["name"]): each["spec"]["jobTemplate"] for each in self.kind("CronJob")}
        rest = {(each["kind"], each["metadata"]["name"]): each for each in self.all}
        owners = {**rest, **jobs}
        return {owner: each["spec"]["template"] for owner, each in owners.items() if "template" in each.get("spec", {})}

    @property
    def containers(self):
        return {
            (*owner, each["name"]): each
            for owner, pod in self.pods.items()
            for each in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        }


@pytest.fixture(scope="module", params=FOLDERS)
def rendered(request):
    return Rendered(request.param)


@pytest.fixture(scope="module")
def base():
    return Rendered("base")


def selects(selector, pod):
    return selector.get("matchLabels", {}).items() <= pod["metadata"]["labels"].items()


def number(quantity):
    """Return 250m as 0.25, 1Gi as 1073741824."""
    value, unit = re.fullmatch(r"([\d.]+)(m|Ki|Mi|Gi|)", quantity).groups()
    return float(value) * {"m": 0.001, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


def test_every_pod_is_restricted_and_reads_only(rendered):
    assert set(rendered.pods) >= {("Deployment", "model"), ("CronJob", "smoke")}
    for owner, pod in rendered.pods.items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], owner
        assert spec["securityContext"]["runAsUser"] >= (10_000 if owner[1] in OURS else 1), owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), owner
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], owner
        assert [spec["automountServiceAccountToken"], spec["enableServiceLinks"]] == [False, False], owner
    for name, container in rendered.containers.items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in context, name


def test_every_container_says_what_it_needs_and_what_it_may_take(rendered):
    for name, container in rendered.containers.items():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert number(requests["cpu"]) > 0, name
        assert 0 < number(requests["memory"]) <= number(limits["memory"]), name
        assert "cpu" not in limits, name
    for owner, pod in rendered.pods.items():
        assert all(
            "sizeLimit" in volume["emptyDir"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume
        ), owner


def test_every_image_is_the_projects_or_pinned_by_its_digest(rendered):
    for name, container in rendered.containers.items():
        assert re.fullmatch(r"model|trainer|mlflow|\S+@sha256:[0-9a-f]{64}", container["image"]), name


def test_pods_are_scaled_by_the_autoscaler_alone(rendered):
    scaler, budget = rendered.one("HorizontalPodAutoscaler")["spec"], rendered.one("PodDisruptionBudget")["spec"]
    deployment = rendered.one("Deployment")

    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "model"}
    assert "replicas" not in deployment["spec"]
    assert 1 <= scaler["minReplicas"] < scaler["maxReplicas"] <= 20
    # What a node's drain may take away is less than what the autoscaler keeps, and never nothing.
    assert {key: budget[key] for key in budget if key in {"minAvailable", "maxUnavailable"}} == {"maxUnavailable": 1}
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert selects(budget["selector"], deployment["spec"]["template"])


def test_the_base_keeps_two_to_twenty_pods_at_seventy_percent(base):
    scaler = base.one("HorizontalPodAutoscaler")["spec"]

    assert [scaler["minReplicas"], scaler["maxReplicas"]] == [2, 20]
    target = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    assert scaler["metrics"] == [{"type": "Resource", "resource": target}]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert "scaleUp" not in scaler["behavior"]


def test_requests_are_what_was_measured(base):
    measured = json.loads((ROOT / "benchmarks/results/serving.json").read_text())
    said = (K8S / "base/deployment.yaml").read_text()
    resources = base.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["resources"]
    core, memory = measured["figures"]["ours"]["16"]["per_second"]["median"], measured["memory_mib"]["ours"]
    share = number(resources["requests"]["cpu"])
    scaler = base.one("HorizontalPodAutoscaler")["spec"]
    full = share * core * scaler["metrics"][0]["resource"]["target"]["averageUtilization"] / 100

    assert f"a core answers {core:,.0f} rows/s one by one, in {memory:.0f} MiB" in said
    assert f"is {share * core:,.0f} rows/s" in said
    assert f"{full:,.0f}, a pod is added: 2 pods carry {2 * full:,.0f} rows/s, 20 carry {20 * full:,.0f}" in said
    assert number(resources["requests"]["memory"]) >= 2 * memory * 2**20
    page = " ".join((ROOT / "docs/platform-engineer.md").read_text().split())
    assert f"A core answers {core:,.0f} rows/s, so a pod's quarter of a core {share * core:,.0f}" in page
    assert f"2 pods carry {2 * full:,.0f} rows/s, 20 carry {20 * full:,.0f}" in page


def test_a_rollout_takes_no_pod_away_before_another_is_ready(rendered):
    spec = rendered.one("Deployment")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    start, ready, live = (container[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))

    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "50%"}
    assert [probe["httpGet"]["path"] for probe in (start, ready, live)] == ["/readyz", "/readyz", "/healthz"]
    seconds = start["periodSeconds"] * start["failureThreshold"]
    assert 30 <= seconds < spec["progressDeadlineSeconds"]
    assert ready["periodSeconds"] <= Settings().drain_seconds < live["periodSeconds"]


def test_the_kubelet_waits_longer_than_the_service_drains(rendered):
    spec = rendered.one("Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert spec["terminationGracePeriodSeconds"] >= Settings().drain_seconds + FORCED_SECONDS + 5
    assert "lifecycle" not in container  # a preStop would wait a second time
    assert "PAWL_DRAIN_SECONDS" not in {each["name"] for each in container["env"]}


def test_pods_spread_over_nodes_and_zones_where_there_are_any(rendered):
    template = rendered.one("Deployment")["spec"]["template"]
    spread = template["spec"]["topologySpreadConstraints"]

    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}
    assert all(selects(each["labelSelector"], template) for each in spread)


def test_ports_and_names_meet(rendered):
    deployment, service = rendered.one("Deployment")["spec"], rendered.one("Service")["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    named = [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")]
    named += [port["targetPort"] for port in service["ports"]]
    for policy in (rendered.one("NetworkPolicy", name) for name in OURS):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        named += [port["port"] for rule in rules for port in rule["ports"] if port["port"] != 53]

    assert ports == {"http": Settings().port}
    assert set(named) == {"http"}
    assert {"matchLabels": service["selector"]} == deployment["selector"] == {"matchLabels": {"app": "model"}}
    assert selects(deployment["selector"], deployment["template"])
    smoke = rendered.pods["CronJob", "smoke"]
    command = smoke["spec"]["containers"][0]["command"]
    assert command[command.index("--url") + 1] == f"http://{rendered.one('Service')['metadata']['name']}"
    assert [owner for owner, pod in rendered.pods.items() if selects(deployment["selector"], pod)] == [("Deployment", "model")]  # fmt: skip
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}
    accounts = {account["metadata"]["name"]: account for account in rendered.kind("ServiceAccount")}
    for pod in (deployment["template"], smoke):
        assert accounts[pod["spec"]["serviceAccountName"]]["automountServiceAccountToken"] is False


def test_every_pod_is_behind_policies_that_deny_what_they_do_not_name(rendered):
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered.kind("NetworkPolicy")}
    everything = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    assert policies.pop("deny") == everything
    for owner, pod in rendered.pods.items():
        assert [name for name, policy in policies.items() if selects(policy["podSelector"], pod)], owner
    assert "egress" not in policies["model"]  # the service asks nobody, so it cannot tell anybody either
    assert "ingress" not in policies["smoke"]
    for name, policy in policies.items():
        said = [kind.title() for kind in ("ingress", "egress") if kind in policy]
        assert set(said) <= set(policy["policyTypes"]), name  # rules of another type mean nothing
    for name in OURS:  # an empty list, or a rule without one, would let everything through
        policy = policies[name]
        for rule in [*policy.get("ingress", []), *policy.get("egress", [])]:
            assert rule["ports"], name
            assert rule.get("from") or rule.get("to"), name
            for peer in rule.get("from") or rule["to"]:
                assert peer == {"podSelector": {}} or all(each["matchLabels"] for each in peer.values()), name


def test_keys_come_from_a_secret_that_may_be_missing(rendered):
    wanted = {("Deployment", "model", "model"): "keys", ("CronJob", "smoke", "smoke"): "smoke"}
    for name, key in wanted.items():
        given = {each["name"]: each.get("valueFrom") for each in rendered.containers[name]["env"]}
        assert given["PAWL_API_KEYS"] == {"secretKeyRef": {"name": "api-keys", "key": key, "optional": True}}
    assert rendered.kind("Secret") == []


def test_a_prediction_log_that_is_turned_on_has_room_before_the_pod_is_evicted(base):
    spec = base.one("Deployment")["spec"]["template"]["spec"]
    room = {volume["name"]: number(volume["emptyDir"]["sizeLimit"]) for volume in spec["volumes"]}
    settings = Settings()

    assert {"name": "log", "mountPath": "/log"} in spec["containers"][0]["volumeMounts"]
    assert "PAWL_LOG_DIR" not in {each["name"] for each in spec["containers"][0]["env"]}
    assert settings.log_max_bytes + settings.log_segment_bytes < room["log"]


def test_the_smoke_job_ends_and_is_never_run_by_the_clock(rendered):
    spec = rendered.one("CronJob", "smoke")["spec"]
    job = spec["jobTemplate"]["spec"]

    assert [spec["suspend"], spec["concurrencyPolicy"], job["backoffLimit"]] == [True, "Forbid", 0]
    assert 60 < job["activeDeadlineSeconds"] <= 120
    assert job["ttlSecondsAfterFinished"]


def test_labels_that_change_are_in_no_selector(rendered):
    text = json.dumps([rendered.one("Deployment")["spec"]["selector"], rendered.one("Service")["spec"]["selector"]])

    assert "app.kubernetes.io" not in text
    if KUBECTL:
        for pod in (rendered.pods["Deployment", "model"], rendered.pods["CronJob", "smoke"]):
            assert {"app.kubernetes.io/name", "app.kubernetes.io/part-of"} < set(pod["metadata"]["labels"])


def test_an_overlay_only_adds():
    assert {path.name for path in (K8S / "overlays").iterdir()} == set(ENVIRONMENTS)
    for name, namespace in ENVIRONMENTS.items():
        written = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
        assert written["resources"][:2] == ["namespace.yaml", "../../base"], name
        assert written["namespace"] == namespace


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_namespace_admits_restricted_pods_alone(name):
    namespace = yaml.safe_load((K8S / "overlays" / name / "namespace.yaml").read_text())
    labels = namespace["metadata"]["labels"]

    assert namespace["metadata"]["name"] == ENVIRONMENTS[name]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert re.fullmatch(r"v1\.\d+", labels[f"pod-security.kubernetes.io/{mode}-version"])


def test_prometheus_finds_the_port_that_the_service_listens_on():
    for name in {"staging", "production"} & {folder.rpartition("/")[2] for folder in FOLDERS}:
        template = Rendered(f"overlays/{name}").one("Deployment")["spec"]["template"]
        told = {key: value for key, value in template["metadata"]["annotations"].items() if "prometheus" in key}
        port = str(template["spec"]["containers"][0]["ports"][0]["containerPort"])

        assert told == {"prometheus.io/scrape": "true", "prometheus.io/port": port, "prometheus.io/path": "/metrics"}


def test_the_deployer_may_not_ask_for_everything():
    account, role, binding = yaml.safe_load_all((K8S / "access/deployer/deployer.yaml").read_text())

    assert [account["kind"], role["kind"], binding["kind"]] == ["ServiceAccount", "Role", "RoleBinding"]
    assert "*" not in json.dumps(role)
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    named = {resource: rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule for resource in rule["resources"]}  # fmt: skip
    assert named == {"secrets": ["registry"]}
    assert {verb for resource, verb in granted if resource == "secrets"} == {"get", "create", "patch"}
    assert {verb for resource, verb in granted if resource == "pods"} == {"get", "list", "watch"}
    assert {verb for _, verb in granted} == {"get", "list", "watch", "create", "patch", "update", "delete"}
    assert not {"pods/exec", "roles", "rolebindings", "nodes", "serviceaccounts/token"} & {each for each, _ in granted}


@pytest.mark.parametrize("name", ["staging", "production"])
def test_a_role_is_applied_to_the_namespace_of_its_environment(name):
    written = yaml.safe_load((K8S / "access" / name / "kustomization.yaml").read_text())

    assert written["namespace"] == ENVIRONMENTS[name]
    assert written["resources"] == ["../deployer"]


def test_the_cycle_runs_in_the_pod_of_training_and_differs_by_its_script_alone():
    for folder in {"components/cycle"} & set(FOLDERS):
        train, predict = (Rendered(folder).one("CronJob", name)["spec"] for name in ("train", "predict"))
        inside = [each["jobTemplate"]["spec"]["template"]["spec"]["containers"][0] for each in (train, predict)]

        assert [each.pop("args")[2] for each in inside] == ["scripts.unattended", "scripts.cycle"]
        assert train["jobTemplate"] == predict["jobTemplate"]
        assert train["schedule"] != predict["schedule"]
