"""What Kubernetes takes of the service: one image at 250m of a core, as a pod behind its Service and as a plain container, asked in turn.

python benchmarks/kubernetes.py --image localhost:5000/me/model@sha256:...

Wrk asks from this machine, which is the cluster's node: 16 connections, one row a request. A ratio is the median of the cycles' ratios.
Needs kubectl, a Docker engine, wrk. Makes the namespace model-bench, and removes it. Writes results/kubernetes.json and kubernetes.md.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import yaml
from serving import WRK

ROOT = Path(__file__).resolve().parent.parent
RESULTS, SPACE, CORES, CONNECTIONS, PORT = ROOT / "benchmarks/results", "model-bench", 0.25, 16, 8765


def call(*words: str, given: str | None = None) -> str:
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, input=given).stdout


def start(image: str) -> str:
    """Return the address of the Service of one pod that has CORES at most."""
    found = list(yaml.safe_load_all(call("kubectl", "kustomize", str(ROOT / "k8s/overlays/local"))))
    for each in found:
        each["metadata"]["name" if each["kind"] == "Namespace" else "namespace"] = SPACE
        if each["kind"] == "Deployment":
            (container,) = each["spec"]["template"]["spec"]["containers"]
            container["image"] = image
            container["resources"]["limits"]["cpu"] = CORES
    kept = [each for each in found if each["kind"] not in {"HorizontalPodAutoscaler", "CronJob"}]
    call("kubectl", "apply", "--filename", "-", given=yaml.safe_dump_all(kept))
    call("kubectl", "--namespace", SPACE, "rollout", "status", "deployment/model", "--timeout=120s")
    address = call("kubectl", "--namespace", SPACE, "get", "service", "model", "--output=jsonpath={.spec.clusterIP}")
    return f"http://{address}"


def ready(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/readyz")  # noqa: S310 - http
            return
        time.sleep(0.2)
    raise TimeoutError(url)


def measure(url: str, script: str, seconds: int) -> dict[str, float]:
    words = ("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", script, f"{url}/predict")
    return dict(json.loads(call(*words).splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    args = parser.parse_args()
    cycles = []
    run = ("docker", "run", "--detach", "--rm", "--network=host", f"--cpus={CORES}", "--memory=512m", "--env", f"PAWL_PORT={PORT}", "--env", "PAWL_HOST=127.0.0.1")  # fmt: skip
    container = call(*run, args.image).strip()
    with tempfile.TemporaryDirectory() as folder:
        try:
            places = {"container": f"http://127.0.0.1:{PORT}", "pod": start(args.image)}
            for url in places.values():
                ready(url)
            golden = json.loads(call("docker", "exec", container, "cat", "models/bundle/golden.json"))["records"]
            rows, script = Path(folder, "rows"), Path(folder, "wrk.lua")
            rows.write_text("".join(f"{json.dumps(each)}\n" for each in golden))
            script.write_text(WRK % rows)
            for turn in range(args.cycles):
                order = list(places.items())[:: 1 if turn % 2 else -1]
                cycles.append({name: measure(url, str(script), args.seconds) for name, url in order})
                print(cycles[-1], flush=True)
        finally:
            subprocess.run(["docker", "rm", "--force", container], check=False, stdout=subprocess.DEVNULL)
            subprocess.run(["kubectl", "delete", "namespace", SPACE, "--wait=false"], check=False)
    if any(each["failed"] for cycle in cycles for each in cycle.values()):
        raise SystemExit("a request failed")
    middle = {name: {key: statistics.median(each[name][key] for each in cycles) for key in ("per_second", "p50_ms", "p99_ms")} for name in places}  # fmt: skip
    ratio = statistics.median(each["pod"]["per_second"] / each["container"]["per_second"] for each in cycles)
    facts = {"cores": CORES, "connections": CONNECTIONS, "cycles": cycles, "date": f"{datetime.now(UTC):%Y-%m-%d}", "load": os.getloadavg()[1]}  # fmt: skip
    (RESULTS / "kubernetes.json").write_text(json.dumps({**facts, "median": middle, "ratio": ratio}, indent=1) + "\n")
    lines = [f"| {name} | {each['per_second']:,.0f} | {each['p50_ms']:.3g} | {each['p99_ms']:.3g} |" for name, each in middle.items()]  # fmt: skip
    text = f"One image at {CORES:g} core, {CONNECTIONS} connections, one row a request, medians of {len(cycles)} cycles, load average {facts['load']:.1f}. {facts['date']}."
    head = "| at | rows/s | p50 ms | p99 ms |\n| --- | --- | --- | --- |"
    (RESULTS / "kubernetes.md").write_text(
        f"# Kubernetes\n\n{text}\n\n{head}\n" + "\n".join(lines) + f"\n\nPod ÷ container: {ratio:.2f} of the rows/s.\n"
    )


if __name__ == "__main__":
    main()
