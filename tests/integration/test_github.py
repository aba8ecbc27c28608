"""`scripts.github`: what a client on this machine does when GitHub, on loopback, does not answer as it should."""

import time

import github as library
import pytest
from requests.adapters import HTTPAdapter

from pawl.problem import Unreachable
from scripts import github

WRITE = "POST .*/comments"
READ = "GET .*/comments"
BAD = {"status": 502, "body": "<html>Bad gateway</html>"}
CUT = {"cut": "before"}
SILENT = {"silent": True}
PRIMARY = {"status": 403, "body": {"message": "API rate limit exceeded for installation."}}
SECONDARY = {"message": "You have exceeded a secondary rate limit."}


@pytest.fixture
def slept(monkeypatch):
    """What was waited, in seconds, without waiting."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def comments(hub):
    """Pull request 5, with a comment: reads and writes comments."""
    hub.pull(5, sha="a" * 40)
    hub.comment(5, "first")
    environ = {"GITHUB_API_URL": hub.url, "GITHUB_REPOSITORY": hub.name, "GH_TOKEN": "ghs_secret"}
    return github.repository(environ).get_issue(5)


def reset(seconds):
    return {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": int(time.time()) + seconds}


@pytest.mark.parametrize("fault", [BAD, CUT], ids=["502", "a cut connection"])
def test_what_reads_or_repeats_itself_is_asked_again(hub, comments, slept, fault):
    hub.faults = [{"match": method, **fault} for method in ("GET", "GET", "PATCH", "PATCH")]

    [comment] = comments.get_comments()
    comment.edit("second")

    assert hub.bodies(5) == ["second"]
    assert hub.faults == []


def test_a_server_that_only_fails_is_given_up(hub, comments, slept):
    hub.faults = [{"match": READ, **BAD} for _ in range(20)]

    with pytest.raises(OSError, match="502") as raised:
        list(comments.get_comments())

    assert len(hub.asked) == 6
    assert sum(slept) <= 60
    assert github.why(raised.value).startswith("no answer: ")


def test_a_server_that_never_answers_is_given_up(hub, slept, monkeypatch):
    send = HTTPAdapter.send
    monkeypatch.setattr(HTTPAdapter, "send", lambda *a, timeout, **b: send(*a, timeout=timeout / 100, **b))
    hub.faults = [{"match": "GET", **SILENT} for _ in range(6)]
    environ = {"GITHUB_API_URL": hub.url, "GITHUB_REPOSITORY": hub.name, "GH_TOKEN": "ghs_secret"}

    with pytest.raises(OSError, match="timed out"):
        github.ask(github.repository(environ), "labels")

    assert hub.faults == []


FAULTS = {
    "a 502 before it was carried out": (BAD, 0),
    "a connection cut before": (CUT, 0),
    "a connection cut after": ({"cut": "after"}, 1),
}


@pytest.mark.parametrize(("fault", "written"), FAULTS.values(), ids=FAULTS)
def test_a_post_whose_answer_is_lost_is_not_sent_again(hub, comments, slept, fault, written):
    hub.faults = [{"match": WRITE, **fault}]

    with pytest.raises((OSError, library.GithubException)) as raised:
        comments.create_comment("second")

    assert len(hub.writes) == 1
    assert hub.bodies(5) == ["first"] + ["second"] * written
    assert github.why(raised.value).endswith("; it may have been carried out")


@pytest.mark.parametrize(("fault", "written"), FAULTS.values(), ids=FAULTS)
def test_what_looks_first_is_done_again_and_leaves_one_comment(hub, comments, slept, fault, written):
    hub.faults = [{"match": WRITE, **fault}]

    def post():
        if "second" not in [each.body for each in comments.get_comments()]:
            comments.create_comment("second")

    github.again(post)

    assert hub.bodies(5) == ["first", "second"]
    assert len(hub.writes) == 2 - written


def test_what_looks_first_is_not_done_for_ever(hub, comments, slept):
    hub.faults = [{"match": WRITE, **BAD} for _ in range(9)]

    with pytest.raises(library.GithubException, match="502"):
        github.again(lambda: comments.create_comment("second"))

    assert len(hub.writes) == 3


def test_a_refusal_is_told_at_once(hub, comments, slept):
    hub.refuses["POST"] = (403, {"message": "Resource not accessible by integration"})

    with pytest.raises(library.GithubException) as raised:
        github.again(lambda: comments.create_comment("second"))

    assert github.why(raised.value) == "403 Resource not accessible by integration"
    assert (len(hub.writes), slept) == (1, [])


LIMITS = {
    "primary": (lambda: PRIMARY | {"headers": reset(30)}, 30),
    "primary as 429": (lambda: PRIMARY | {"status": 429, "headers": reset(30)}, 30),
    "secondary that says when": (lambda: {"status": 403, "body": SECONDARY, "headers": {"Retry-After": 7}}, 7),
    "secondary as 429": (lambda: {"status": 429, "body": SECONDARY, "headers": {"Retry-After": 7}}, 7),
    "secondary that does not say when": (lambda: {"status": 403, "body": SECONDARY}, 60),
}


@pytest.mark.parametrize("match", [READ, WRITE], ids=["reading", "writing"])
@pytest.mark.parametrize(("fault", "seconds"), LIMITS.values(), ids=LIMITS)
def test_a_limit_that_ends_soon_is_waited_for(hub, comments, slept, fault, seconds, match):
    hub.faults = [{"match": match, **fault()}]

    list(comments.get_comments())
    comments.create_comment("second")

    assert hub.bodies(5) == ["first", "second"]
    assert len(slept) == 1
    assert seconds - 2 <= slept[0] <= seconds + 2


FAR = {
    "primary": lambda: PRIMARY | {"headers": reset(3000)},
    "primary as 429": lambda: PRIMARY | {"status": 429, "headers": reset(3000)},
    "secondary": lambda: {"status": 403, "body": SECONDARY, "headers": {"Retry-After": 3000}},
}


@pytest.mark.parametrize("fault", FAR.values(), ids=FAR)
def test_a_limit_that_ends_late_is_an_error_that_says_when(hub, comments, slept, fault):
    hub.faults = [{"match": WRITE, **fault()}]

    with pytest.raises(Unreachable, match=r"used up until \d\d:\d\d UTC, for 50 minutes") as raised:
        github.again(lambda: comments.create_comment("second"))

    assert (raised.value.code, len(hub.writes), slept) == (3, 1, [])


def test_every_page_is_read(hub, comments):
    for number in range(250):
        hub.comment(5, str(number))

    assert [each.body for each in comments.get_comments()] == ["first", *map(str, range(250))]
    assert len(hub.asked) == 3


def test_nobody_there_is_told(slept):
    environ = {"GITHUB_API_URL": "http://127.0.0.1:1", "GITHUB_REPOSITORY": "octo/model", "GH_TOKEN": "ghs_secret"}

    with pytest.raises(OSError, match="refused") as raised:
        github.again(lambda: github.repository(environ).get_issue(5).create_comment("second"))

    assert "may have been carried out" not in github.why(raised.value)
    assert len(slept) == 4  # nothing was sent: nothing is lost
