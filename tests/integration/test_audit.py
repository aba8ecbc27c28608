"""scripts.audit and scripts.probe: what is found is red, what could not be asked is red, what is not there is said."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts import audit, probe

ROOT = Path(__file__).parents[2]
LOCK = "requests==2.0 \\\n    --hash=sha256:{0}\nlightgbm==4.0 \\\n    --hash=sha256:{0}\n".format("0" * 64)
OLD = {"id": "PYSEC-2020-96", "fix_versions": ["5.4"]}
FIXED, UNFIXED = {"id": "CVE-1", "fix_versions": ["2.1", "3.0"]}, {"id": "CVE-2", "fix_versions": []}

# pip-audit: what KNOWN says of a pin; without KNOWN, a database that does not answer
PIP_AUDIT = """\
import json, os, sys
if not {"--strict", "--require-hashes"} <= set(sys.argv): sys.exit("fails open")
if "KNOWN" not in os.environ: sys.exit("ERROR: could not be audited")
known = json.loads(os.environ["KNOWN"])
with open(next(word for word in sys.argv if word.startswith("--requirement=")).partition("=")[2]) as file:
    pins = [line.split()[0] for line in file if "==" in line]
print(json.dumps({"dependencies": [{"name": p.split("==")[0], "version": p.split("==")[1], "vulns": known.get(p, [])} for p in pins]}))
sys.exit(1)
"""
# go: gitleaks, which sees {token} in the history of the last word; grype, which exits with {code}
GO = """\
#!{python}
import json, subprocess, sys
if sys.argv[4] == "grype":
    sys.exit({code})
said = subprocess.run(["git", "-C", sys.argv[-1], "log", "--all", "-p"], capture_output=True, text=True).stdout
found = [dict(RuleID="github-pat", File="f.env", StartLine=1, Commit="c" * 40)] if "+" in said and {token!r} in said else []
report = next(word for word in sys.argv if word.startswith("--report-path="))
open(report.partition("=")[2], "w").write(json.dumps(found))
sys.exit({code} or (7 if found else 0))
"""
DOCKER = "#!/bin/sh\necho '{said}' >&2\nexit {code}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a lock and a history, where pip-audit, gitleaks, grype and docker are stand-ins."""
    place = tmp_path / "place"
    (place / "requirements").mkdir(parents=True)
    (place / "requirements/a.txt").write_text(LOCK)
    (place / "requirements/b.txt").write_text(LOCK.partition("lightgbm")[0])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pip_audit.py").write_text(PIP_AUDIT)
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "--quiet", "--initial-branch=main")
    commit("start")
    return place


def git(*words):
    subprocess.run(["git", "-c", "user.name=tester", "-c", "user.email=tester@example.org", *words], check=True)


def commit(message):
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", message)


def program(place, name, text):
    path = place.parent / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def go(place, token="ghp_", code=0):
    program(place, "go", GO.format(python=sys.executable, token=token, code=code))


def call(capsys, *words, **environ):
    code = audit.main(words, environ)
    done = capsys.readouterr()
    return code, done.out + done.err


@pytest.mark.parametrize(
    ("known", "code", "said"),
    [
        pytest.param({}, 0, "✅ Packages: 0 advisories for 2 locks", id="nothing is known"),
        pytest.param({"lightgbm==4.0": [UNFIXED]}, 0, "| lightgbm==4.0 | CVE-2 | none yet | a.txt |", id="no fixed release"),
        pytest.param({"requests==2.0": [FIXED]}, 1, "| requests==2.0 | CVE-1 | 2.1, 3.0 | a.txt, b.txt |", id="a fixed release"),
        pytest.param({"requests==2.0": [FIXED], "lightgbm==4.0": [UNFIXED]}, 1, "make lock ARGS=--upgrade", id="both"),
    ],
)  # fmt: skip
def test_packages_are_red_where_a_release_would_fix_them(known, code, said, place, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KNOWN", json.dumps({audit.BAD: [OLD], **known}))

    ended, output = call(capsys, "packages", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))

    assert ended == code, output
    assert said in output
    assert said in (tmp_path / "summary").read_text()
    assert audit.BAD not in output


@pytest.mark.parametrize(
    ("known", "said"), [(None, "ERROR: could not be audited"), ({}, "nothing is known against pyyaml==5.3")]
)
def test_a_database_that_does_not_answer_or_knows_nothing_is_red(known, said, place, capsys, monkeypatch):
    if known is not None:
        monkeypatch.setenv("KNOWN", json.dumps(known))

    code, output = call(capsys, "packages")

    assert code == 3
    assert said in output


def test_no_lock_is_red(place, capsys, monkeypatch):
    monkeypatch.setenv("KNOWN", json.dumps({audit.BAD: [OLD]}))
    for path in place.glob("requirements/*"):
        path.unlink()

    assert call(capsys, "packages")[0] == 2


def test_a_pull_request_is_not_red_for_what_main_has_too(place, capsys, monkeypatch):
    monkeypatch.setenv("KNOWN", json.dumps({audit.BAD: [OLD], "requests==2.0": [FIXED], "new==1.0": [FIXED]}))
    commit("no lock is touched")
    alike = call(capsys, "packages", "--unless-as", "HEAD^1")
    (place / "requirements/b.txt").write_text(LOCK + "new==1.0\n")
    commit("a lock is")

    differs = call(capsys, "packages", "--unless-as", "HEAD^1")
    unknown = call(capsys, "packages", "--unless-as", "0" * 40)

    assert (alike[0], differs[0], unknown[0]) == (0, 1, 1)
    assert "➖ Packages: requirements/ is as in main" in alike[1]


def test_a_secret_that_was_deleted_again_is_found_and_not_shown(place, capsys):
    go(place)
    clean = call(capsys, "secrets")
    for text in ("TOKEN=ghp_1234", ""):
        (place / "f.env").write_text(text)
        commit("f")

    code, output = call(capsys, "secrets")

    assert clean == (0, "✅ Secrets: none in 1 commits of all branches and tags.\n")
    assert code == 1
    assert "| github-pat | f.env:1 | cccccccccccc |" in output
    assert "1234" not in output


@pytest.mark.e2e
@pytest.mark.e2e
def test_gitleaks_itself_finds_what_is_planted_and_nothing_else(place, monkeypatch):
    assert shutil.which("go"), "`make e2e` needs Go, which builds gitleaks: see tests/README.md"
    word = "k3V9-xQ2w_Zr7Lp5Tn8Yb4"
    (place / "app.env").write_text(
        f"GITHUB_TOKEN=ghp_{secrets.token_hex(18)}\nAWS_ACCESS_KEY_ID=AKIA{random_of('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)}\n"
        f"STORE=postgresql://mlflow:{word}@db.example.com/mlflow\nTOKEN={word}\nHARMLESS=postgresql://db.example.com/mlflow\n"
    )
    (place / "tests").mkdir()
    (place / "tests/made_up.py").write_text(f'TOKEN = "{word}"\nURL = "https://me:{word}@example.com"\n')
    commit("planted")
    (place / "app.env").unlink()
    commit("taken away")
    monkeypatch.chdir(ROOT)

    found = audit.leaks(place, f"--config={ROOT / '.github/gitleaks.toml'}")

    rules = ["github-pat", "aws-access-token", "password-in-url", "generic-api-key"]
    assert sorted((each["StartLine"], each["RuleID"]) for each in found) == list(enumerate(rules, 1))
    assert {each["File"] for each in found} == {"app.env"}
    assert word not in json.dumps(found)


def random_of(letters, count):
    return "".join(secrets.choice(letters) for _ in range(count))


@pytest.mark.parametrize("broken", [{"token": "blind"}, {"code": 1}], ids=["blind", "failing"])
def test_a_scanner_that_does_not_scan_is_red(broken, place, capsys):
    go(place, **broken)

    code, output = call(capsys, "secrets")

    assert code == 3
    assert "gitleaks" in output


def test_without_the_whole_history_or_go_nothing_is_said_to_be_clean(place, capsys, monkeypatch, tmp_path):
    commit("second")
    git("clone", "--quiet", "--depth=1", f"file://{place}", str(tmp_path / "shallow"))
    program(place, "git", f'#!/bin/sh\nexec "{shutil.which("git")}" "$@"\n')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    without_go = call(capsys, "secrets")
    monkeypatch.chdir(tmp_path / "shallow")

    shallow = call(capsys, "secrets")

    assert (without_go[0], shallow[0]) == (2, 2)
    assert "Go is not installed" in without_go[1]
    assert "fetch-depth: 0" in shallow[1]


@pytest.mark.parametrize(
    ("said", "docker", "grype", "code", "words"),
    [
        pytest.param("", 0, 0, 0, "✅ localhost/me/image:latest: no advisory", id="clean"),
        pytest.param("", 0, 2, 1, "❌ localhost/me/image:latest: advisories", id="found"),
        pytest.param("", 0, 1, 3, "grype did not scan", id="no database"),
        pytest.param("no such manifest: x", 1, 0, 0, "➖ localhost/me/image:latest skipped", id="not released"),
        pytest.param("denied: denied", 1, 0, 0, "➖ localhost/me/image:latest skipped", id="not ours"),
        pytest.param("dial tcp: no such host", 1, 0, 3, "the registry did not answer: dial tcp", id="no registry"),
    ],
)
def test_an_image_is_audited_named_as_missing_or_red(said, docker, grype, code, words, place, capsys, tmp_path):
    go(place, code=grype)
    program(place, "docker", DOCKER.format(said=said, code=docker))

    ended, output = call(capsys, "image", "localhost/Me/Image:latest", GITHUB_OUTPUT=str(tmp_path / "output"))

    assert ended == code, output
    assert words in output
    scanned = ended == 1 or "✅" in output
    assert (tmp_path / "output").exists() == scanned  # there is something to upload


@pytest.fixture
def api(tmp_path):
    """GitHub, which answers everything with api.answer: status, headers, body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = server.answer
            server.asked = self.path
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(api, feature, folder):
    event = folder / "event.json"
    event.write_text(json.dumps({"pull_request": {"base": {"sha": "a1"}, "head": {"sha": "b2"}}}))
    environ = {
        "GITHUB_API_URL": f"http://127.0.0.1:{api.server_port}", "GITHUB_REPOSITORY": "octo/model", "GH_TOKEN": "t",
        "GITHUB_EVENT_PATH": str(event), "GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }  # fmt: skip
    code = probe.main([feature], environ)
    return code, *(path.read_text() if (path := folder / name).exists() else "" for name in ("output", "summary"))


@pytest.mark.parametrize(
    ("feature", "status", "body", "there", "said"),
    [
        pytest.param("graph", 200, b"[]", "true", "", id="graph"),
        pytest.param("graph", 404, b'{"message": "Not Found"}', "false", "404 Not Found. It takes: Settings", id="no graph"),
        pytest.param("graph", 403, b"<html>", "false", "403 and no reason", id="refused without a word"),
        pytest.param("scanning", 200, b"[]", "true", "", id="scanning"),
        pytest.param("scanning", 404, b'{"message": "no analysis found"}', "true", "", id="scanning, never used"),
        pytest.param("scanning", 403, b'{"message": "Code Security must be enabled."}', "false", "must be enabled. It takes", id="no scanning"),
    ],
)  # fmt: skip
def test_a_feature_that_is_not_there_is_named(feature, status, body, there, said, api, tmp_path):
    api.answer = status, {}, body

    code, output, summary = ask(api, feature, tmp_path)

    assert (code, output) == (0, f"there={there}\n")
    assert (f"{probe.FEATURES[feature][0]} skipped" in summary) == (there == "false")
    assert said in summary
    assert api.asked.startswith("/repos/octo/model/" + ("dependency-graph/compare/a1...b2" if feature == "graph" else "code-scanning/"))  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers"), [(502, {}), (401, {}), (403, {"x-ratelimit-remaining": "0"}), (403, {"retry-after": "60"})]
)
def test_a_github_that_does_not_answer_is_red(status, headers, api, tmp_path):
    api.answer = status, headers, b"{}"

    code, output, summary = ask(api, "graph", tmp_path)

    assert (code, output, summary) == (3, "", "")


def test_no_github_at_all_is_red(api, tmp_path):
    api.server_port = 1

    assert ask(api, "graph", tmp_path)[0] == 3


def test_both_run_on_the_standard_library_alone(tmp_path):
    for name in ("audit", "probe"):
        words = [sys.executable, "-S", "-m", f"scripts.{name}", "--help"]  # without site-packages

        done = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": "src"}, check=False, capture_output=True, text=True)

        assert (done.returncode, done.stderr) == (0, "")
        assert f"python -m scripts.{name}" in done.stdout
