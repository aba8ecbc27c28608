"""`python -m scripts.notify`: servers on loopback that really receive the post, the mail and the issue."""

import json
import re
import socketserver
import threading
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts import notify

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise asks Python 3.11 for it
TITLE = "Drift: age moved (KS 0.21, p < 0.001)."
TOKEN = "k1t2token3k4t5token6k7t8token"
GITHUB = "ghs_0123456789secret"


@pytest.fixture
def served():
    """Return a function that serves a handler on loopback, and gives its port."""
    servers = []

    def serve(handler, kind=socketserver.ThreadingTCPServer):
        server = kind(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append((server, threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})))
        servers[-1][1].start()
        return server.server_address[1]

    yield serve
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web(served):
    """A server that keeps what is posted; `answers` are the next statuses, then 200."""

    class Web(BaseHTTPRequestHandler):
        answers, posted = [], []

        def do_POST(self):
            self.posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(self.answers.pop(0) if self.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    Web.port = served(Web, ThreadingHTTPServer)
    return Web


@pytest.fixture
def mails(served):
    """Mail that was delivered to `mails.port`."""

    class Mails(list):
        port = 0

    found = Mails()

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            for line in self.rfile:
                word = line[:4].upper()
                self.wfile.write(
                    b"354 go on\r\n" if word == b"DATA" else b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n"
                )
                if word == b"DATA":
                    found.append(message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n")), policy=default))
                    self.wfile.write(b"250 kept\r\n")
                if word == b"QUIT":
                    return

    found.port = served(Smtp)
    return found


@pytest.fixture
def tell(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script, and gives (code, out, err, seconds that it waited)."""
    waited = []
    monkeypatch.setattr(notify.time, "sleep", waited.append)
    body = tmp_path / "drift.md"
    body.write_text("**age** moved\n\n| column | KS |\n|---|---|\n| age | 0.21 |\n")

    def run(*words, event="drift", **environ):
        waited.clear()
        given = [
            "--event",
            event,
            *(words or ("--title", TITLE, "--body", str(body), "--link", "https://example.org/run")),
        ]
        code = notify.main(given, environ)
        said = capsys.readouterr()
        assert not re.search(f"{TOKEN}|{GITHUB}", said.out + said.err)
        return code, said.out, said.err, [wait for wait in waited if wait in notify.WAITS[1:]]

    return run


def test_a_post_a_chat_and_a_mail_have_the_same_headline(web, mails, tell):
    urls = f"json://127.0.0.1:{web.port}/hook mmost://127.0.0.1:{web.port}/{TOKEN}\nmailto://127.0.0.1:{mails.port}?from=ci@example.org&to=team@example.org&mode=insecure"

    code, out, err, _ = tell(NOTIFY_URLS=urls)

    (_, post), (path, chat) = web.posted
    (mail,) = mails
    assert (code, err) == (0, "")
    assert out.splitlines() == ["told json://127.0.0.1", "told mmost://127.0.0.1", "told mailto://127.0.0.1"]
    assert (post["title"], mail["subject"], mail["to"]) == (TITLE, TITLE, "team@example.org")
    assert path == f"/hooks/{TOKEN}"  # Slack's shape, which Mattermost and Rocket.Chat take
    assert TITLE in chat["text"]
    assert "https://example.org/run" in post["message"]
    assert "<strong>age</strong> moved" in mail.get_body(("html",)).get_content()


def test_what_failed_for_the_moment_is_tried_again_for_longer_and_longer(web, tell):
    web.answers[:] = [503, 503]

    code, out, _err, waited = tell("--title", TITLE, NOTIFY_URLS=f"json://127.0.0.1:{web.port}")

    assert (code, out, waited) == (0, "told json://127.0.0.1\n", [1, 2])
    assert len(web.posted) == 3


def test_a_channel_that_fails_is_told_without_its_token_and_stops_no_other(web, tell):
    web.answers[:] = [404, 503, 503, 503, 503]
    here = f"127.0.0.1:{web.port}"
    urls = f"mmost://{here}/{TOKEN} json://user:{TOKEN}@{here} nonsense://{TOKEN} {TOKEN} slack://{TOKEN} json://{here}"

    code, out, err, waited = tell("--title", TITLE, "--exit-code", NOTIFY_URLS=urls)

    assert (code, out) == (3, "told json://127.0.0.1\n")
    assert waited == [1, 2, 4]
    assert err.splitlines() == [
        "warning: mmost://127.0.0.1 was not told: it answered with status 404",
        "warning: json://127.0.0.1 was not told: it answered with status 503",
        "warning: nonsense (number 3 of NOTIFY_URLS) was not told: the address is none that apprise knows",
        "warning: address (number 4 of NOTIFY_URLS) was not told: the address is none that apprise knows",
        "warning: slack (number 5 of NOTIFY_URLS) was not told: the address is none that apprise knows",
    ]
    assert tell("--title", TITLE, NOTIFY_URLS=f"nonsense://{TOKEN}")[0] == 0


@pytest.mark.parametrize(("event", "wanted", "posts"), [("run_finished", "", 0), ("run_finished", "deployed, run_finished", 1), ("drift", "", 1), ("drift", "deployed", 0)])  # fmt: skip
def test_a_channel_is_told_the_events_that_were_asked_for(event, wanted, posts, web, tell):
    _code, out, err, _ = tell(
        "--title", TITLE, event=event, NOTIFY_URLS=f"json://127.0.0.1:{web.port}", NOTIFY_EVENTS=wanted
    )

    assert (len(web.posted), err) == (posts, "")
    assert posts or out == "nobody was told\n"


def test_an_event_that_does_not_exist_is_named(tell):
    _code, _out, err, _ = tell("--title", TITLE, NOTIFY_EVENTS="drift,deploy")

    assert "warning: NOTIFY_EVENTS was not told: deploy is no event: run_finished, gate_failed" in err


def test_a_run_that_finished_is_told_with_parameters_and_metrics(project, web, tell, monkeypatch):
    (project.path / "gates.yaml").write_text("version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.5}}\n")
    project.call("make", "report", "PAWL_ENV=system")
    monkeypatch.chdir(project.path)

    _code, _out, err, _ = tell(
        "--exit-code", event="run_finished", NOTIFY_URLS=f"json://127.0.0.1:{web.port}", NOTIFY_EVENTS="run_finished"
    )

    ((_, post),) = web.posted
    assert err == ""
    assert re.match(r"✅ roc_auc is 0\.\d+", post["title"])
    assert "n_estimators 30" in post["message"]
    assert re.search(r"roc_auc.*0\.\d{3}", post["message"].partition("\n")[2])


@pytest.fixture
def issues(hub, monkeypatch):
    """Issues of the pretended GitHub; 7 is somebody else's, of the same label."""
    found = [{"number": 7, "state": "open", "labels": ["drift"], "body": "my own", "title": "mine"}]

    def route(method, path, query, sent):
        path = path.removeprefix(f"/repos/{hub.name}")
        if (method, path) == ("GET", "/issues"):
            return (
                200,
                [each for each in found if each["state"] == query["state"] and query["labels"] in each["labels"]],
                "",
            )
        if (method, path) == ("POST", "/issues"):
            found.append({"number": 8, "state": "open", "comments": [], **sent})
            found[-1]["url"] = f"{hub.url}/repos/{hub.name}/issues/8"
            return 201, found[-1], ""
        if path.endswith("/comments"):
            found[-1]["comments"].append(sent["body"])
            return 201, {"id": 1, **sent}, ""
        found[-1].update(sent)
        return 200, found[-1], ""

    hub.route = route
    return found


def test_one_issue_is_opened_renewed_and_closed(hub, issues, tell):
    github = {"GITHUB_API_URL": hub.url, "GITHUB_REPOSITORY": hub.name, "GH_TOKEN": GITHUB}

    first = tell(**github)
    again = tell("--title", "Drift: sex moved.", **github)
    opened = dict(issues[-1])
    closed = tell("--resolved", "--title", "No drift.", **github)
    late = tell("--resolved", **github)
    other = tell("--title", "Deployed.", event="deployed", **github)

    assert [each[:3] for each in (first, again)] == [(0, "told issue #8\n", "")] * 2
    assert len(issues) == 2
    assert (opened["title"], opened["state"], opened["labels"]) == ("Drift: sex moved.", "open", ["drift"])
    assert closed[:2] == (0, "told issue #8: closed\n")
    assert (issues[-1]["state"], issues[-1]["comments"]) == ("closed", ["No drift."])
    assert issues[0]["state"] == "open"
    assert (late[1], other[1]) == ("told nobody: no issue is open\n", "nobody was told\n")


def test_a_github_that_refuses_is_a_warning(hub, web, tell):
    hub.refuses["GET"] = (403, {"message": "Resource not accessible by integration"})
    given = {
        "GITHUB_API_URL": hub.url,
        "GITHUB_REPOSITORY": hub.name,
        "GH_TOKEN": GITHUB,
        "NOTIFY_URLS": f"json://127.0.0.1:{web.port}",
    }

    code, out, err, _ = tell(**given)

    assert (code, out) == (0, "told json://127.0.0.1\n")
    assert "warning: an issue on GitHub was not told: 403 Resource not accessible by integration" in err


@pytest.mark.parametrize("body", ["a line\n" * 2000, "a word " * 2000])
def test_what_others_call_returns_whom_it_told_and_cuts_what_is_long(body, web):
    environ = {"NOTIFY_URLS": f"json://127.0.0.1:{web.port}"}

    assert notify.notify("deployed", TITLE, body, "https://example.org/run", environ) == ["json://127.0.0.1"]
    assert 3900 < len(web.posted[0][1]["message"]) < 4100
    assert web.posted[0][1]["message"].endswith("...\n\nhttps://example.org/run")
