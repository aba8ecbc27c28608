"""Find the way into an environment's cluster, where the environment has one.

python -m scripts.access --environment staging
python -m scripts.access token --audience https://my.cluster      what kubectl calls: GitHub's token for this job

From the environment on GitHub: the secret KUBECONFIG; or the variables CLUSTER (its https:// address) and CLUSTER_CA (its certificates, PEM), where the API
server takes GitHub's tokens: then there is no secret to leak. Sets the outputs `kubeconfig` (a file) and `overlay` (of k8s/overlays). Without a cluster staging
is `local`, a throw-away kind on the runner, and production is nothing. Exit code: 0 done, 2 your input, 3 GitHub gave no token.
"""

import base64
import json
import os
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import urllib3
import yaml

from pawl.problem import Problem, Unreachable
from scripts import cli, github

LIGHT = "secret KUBECONFIG, or variables CLUSTER and CLUSTER_CA, of that environment"
PASTE = "paste the file's content, not its path, nor base64"
ASKED = "client.authentication.k8s.io/v1"


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Write a kubeconfig, or give a token."""
    parser = cli.parser("access", __doc__)
    parser.add_argument("verb", nargs="?", choices=("token",))
    parser.add_argument("--environment", choices=("staging", "production"))
    parser.add_argument("--needed", action="store_true", help="no cluster is an error")
    parser.add_argument("--audience", help="with token: who it is for")
    args = parser.parse_args(argv)
    if bool(args.verb) != bool(args.audience) or bool(args.verb) == bool(args.environment):
        parser.error("give --environment, or token and --audience")
    if args.verb:
        credential = {"apiVersion": ASKED, "kind": "ExecCredential", "status": {"token": token(args.audience, environ)}}
        print(json.dumps(credential))
        return 0
    content = kubeconfig(environ)
    if args.needed and not content:
        raise Problem(f"{args.environment} has no cluster", f"environment {args.environment}", LIGHT)
    overlay = args.environment if content else "local" if args.environment == "staging" else ""
    path = Path(environ.get("RUNNER_TEMP", "."), "kubeconfig") if content else None
    if path:
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    github.output(environ, overlay=overlay, kubeconfig=str(path or ""))
    others = {"local": "a throw-away kind on this runner", "": "no cluster, nothing is deployed"}
    said = others.get(overlay, "its own cluster")
    told = f"{args.environment}: {said}" + ("" if content else f"; its own: {LIGHT}")
    print(told)
    github.summary(environ, "" if content else f"➖ {told}.\n\n")
    return 0


def kubeconfig(environ: Mapping[str, str]) -> str:
    """Return the kubeconfig that the environment's settings make; nothing if there are none."""
    if given := environ.get("KUBECONFIG_CONTENT", "").strip():
        try:
            content = yaml.safe_load(given)
        except yaml.YAMLError as error:  # its message would quote the secret
            raise Problem("it is not YAML", "secret KUBECONFIG", PASTE) from error
        if not isinstance(content, dict) or not content.get("clusters"):
            raise Problem("it is no kubeconfig: it names no clusters", "secret KUBECONFIG", PASTE)
        return given + "\n"
    server, authority = environ.get("CLUSTER", "").strip(), environ.get("CLUSTER_CA", "").strip()
    if not server:
        return ""
    if not server.startswith("https://") or "BEGIN CERTIFICATE" not in authority:
        what = "CLUSTER takes https://..., CLUSTER_CA the API server's certificates in PEM"
        fix = "kubectl config view --minify --raw shows both; the CA is in base64 there"
        raise Problem(what, "the environment's variables", fix)
    words = ["-m", "scripts.access", "token", "--audience", server]
    asker = {"apiVersion": ASKED, "command": sys.executable, "args": words, "interactiveMode": "Never"}
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority.encode()).decode()}
    made = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "it", "user": {"exec": asker}}], "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
    return yaml.safe_dump(made)


def token(audience: str, environ: Mapping[str, str]) -> str:
    """Return a token that says which repository, branch and environment this job is of; valid for minutes, so kubectl asks each time."""
    try:
        url, bearer = environ["ACTIONS_ID_TOKEN_REQUEST_URL"], environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
    except KeyError as error:
        raise Problem("GitHub gives this job no token", "the job's permissions", "id-token: write") from error
    retries = urllib3.Retry(4, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504))
    try:
        asked = f"{url}&audience={urllib.parse.quote(audience, safe='')}"
        headers = {"Authorization": f"Bearer {bearer}"}
        answer = urllib3.request("GET", asked, headers=headers, retries=retries, timeout=10)
        return str(answer.json()["value"])
    except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
        what = f"GitHub gave no token: {type(error).__name__}"
        raise Unreachable(what, url.partition("?")[0], "run the job again") from error


if __name__ == "__main__":
    sys.exit(main())
