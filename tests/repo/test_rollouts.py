"""docs/rollouts.md is held to k8s/: what it shows is valid, and is what runs."""

import re
from pathlib import Path

import pytest
import yaml

from pawl.serving.counts import Counts
from scripts import lint, replay

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/rollouts.md").read_text()
SHOWN = [each for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for each in yaml.safe_load_all(block)]
CORE = {"apps/v1", "autoscaling/v2"}


def one(kind, found=SHOWN):
    (only,) = [each for each in found if each["kind"] == kind]
    return only


def base(name, kind):
    return one(kind, [*yaml.safe_load_all((ROOT / "k8s/base" / name).read_text())])


@pytest.mark.parametrize("version", lint.KUBERNETES)
def test_what_kubernetes_itself_knows_is_valid(version, tmp_path):
    files = []
    for each in SHOWN:
        if each["apiVersion"] in CORE:
            files.append(str(tmp_path / f"{each['kind']}.yaml"))
            Path(files[-1]).write_text(yaml.safe_dump(each))

    assert len(files) == 2
    assert lint.valid(files, version)


def test_the_canary_is_a_pod_of_the_service_and_runs_as_the_others_do():
    canary, model = one("Deployment")["spec"], base("deployment.yaml", "Deployment")["spec"]
    labels, (container,), (other,) = canary["template"]["metadata"]["labels"], canary["template"]["spec"]["containers"], model["template"]["spec"]["containers"]  # fmt: skip

    assert base("service.yaml", "Service")["spec"]["selector"].items() < labels.items()
    assert canary["selector"]["matchLabels"] == labels  # and not all pods of the Service
    for name in ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets", "securityContext"):  # fmt: skip
        assert canary["template"]["spec"][name] == model["template"]["spec"][name]
    for name in other.keys() - {"image", "volumeMounts"}:
        assert container[name] == other[name]
    assert [each for each in other["volumeMounts"] if each["name"] == "tmp"] == container["volumeMounts"]
    assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", container["image"])


def test_names_meet():
    port = base("service.yaml", "Service")["spec"]["ports"][0]["port"]
    space = {name: one("Kustomization", [yaml.safe_load((ROOT / f"k8s/overlays/{name}/kustomization.yaml").read_text())])["namespace"] for name in ("staging", "production")}  # fmt: skip
    route, grant, rollout, scaler = (one(kind) for kind in ("HTTPRoute", "ReferenceGrant", "Rollout", "HorizontalPodAutoscaler"))  # fmt: skip

    assert {each["metadata"]["namespace"] for each in SHOWN if each != grant} == {space["production"]}
    backends = [each for rule in route["spec"]["rules"] for each in rule["backendRefs"]]
    assert {(each["name"], each.get("namespace"), each["port"]) for each in backends} == {("model", None, port), ("model", space["staging"], port)}  # fmt: skip
    assert sum(each.get("weight", 0) for each in backends) == 100
    assert [grant["metadata"]["namespace"], grant["spec"]["from"][0]["namespace"]] == [space["staging"], space["production"]]  # fmt: skip
    assert rollout["spec"]["selector"] == base("deployment.yaml", "Deployment")["spec"]["selector"]
    assert {key: rollout["spec"]["workloadRef"][key] for key in ("apiVersion", "kind", "name")} == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "model"}  # fmt: skip
    shipped = base("scaling.yaml", "HorizontalPodAutoscaler")["spec"]
    target = {key: rollout[key] for key in ("apiVersion", "kind")} | {"name": rollout["metadata"]["name"]}
    assert scaler["spec"] == shipped | {"scaleTargetRef": target}


def test_metrics_and_options_that_it_names_are_there(capsys):
    with pytest.raises(SystemExit):
        replay.main(["--help"])
    options = capsys.readouterr().out

    assert all(each in options for line in PAGE.splitlines() if "scripts.replay" in line for each in re.findall(r"--[\w-]+", line))  # fmt: skip
    families = Counts(["no", "yes"], [], {}, {"digest": "sha256:0"}).collect()
    counted = {sample.name for family in families for sample in family.samples}
    named = set(re.findall(r"`(model_[a-z_]+?)(?:_total)?[`{]", PAGE))
    assert len(named) == 3
    assert all(any(name in {each, f"{each}_total"} for name in counted) for each in named)
