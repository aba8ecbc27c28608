"""Tell people: a chat, a mail, an address that takes JSON; and one GitHub issue.

python -m scripts.notify --event drift --title "Drift: age moved (KS 0.21)" --body reports/drift.md --link https://...
python -m scripts.notify --event drift --resolved       closes the issue
python -m scripts.notify --event run_finished           what `make run` and `make report` left: parameters, metrics, difference

NOTIFY_URLS are addresses of apprise (https://github.com/caronc/apprise/wiki), separated by spaces: slack://..., mmosts://..., mailtos://..., jsons://...
NOTIFY_EVENTS are the events they are told, separated by commas; without it all but run_finished. Where GITHUB_REPOSITORY and GH_TOKEN are set, drift, gate_failed
and retrain_failed are an issue too, renewed while it is open. Exit code: 0, whoever was not told is a warning; with --exit-code it is 3; 2 your input.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pawl import paths, report
from pawl.gate import rules
from pawl.problem import Problem
from pawl.report import text
from pawl.serving.settings import listed
from scripts import cli, github

EVENTS = ("run_finished", "gate_failed", "drift", "retrain_opened", "retrain_failed", "deployed", "rolled_back")
ISSUES = {"drift", "gate_failed", "retrain_failed"}
MARK = "<!-- pawl:{} -->"
WAITS = (0, 1, 2, 4)  # seconds before each try
LONGEST = 4000  # characters of a message; an issue takes more
Told = tuple[str, str]  # where, and why not: nothing where it arrived


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Tell, and say whom."""
    parser = cli.parser("notify", __doc__)
    parser.add_argument("--event", required=True, choices=EVENTS)
    parser.add_argument("--title", help="the headline; without it that of reports/report.json")
    parser.add_argument("--body", type=Path, metavar="FILE", help="Markdown; without --title reports/report.md")
    parser.add_argument("--link", default=run_of(environ), help="where more stands; in a job the run")
    parser.add_argument("--resolved", action="store_true", help="close the event's issue")
    parser.add_argument("--exit-code", action="store_true", help="3 where somebody was not told")
    args = parser.parse_args(argv)
    if args.resolved:
        done = [tried("the issue on GitHub", lambda: resolve(args.event, args.title or "", environ))] if watched(args.event, environ) else []  # fmt: skip
    else:
        title, body = (args.title, "") if args.title else finished()
        done = tell(args.event, title, read(args.body) if args.body else body, args.link, environ)
    told = said(done)
    print("\n".join(f"told {where}" for where in told) or "nobody was told")
    return 3 if args.exit_code and len(told) < len(done) else 0


def run_of(environ: Mapping[str, str]) -> str:
    """Return the address of the run on GitHub; nothing elsewhere."""
    known = environ.get("GITHUB_RUN_ID") and environ.get("GITHUB_SERVER_URL")
    return "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}".format_map(environ) if known else ""


def notify(event: str, title: str, body: str, link: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Tell an event; return whom. body: Markdown. Nothing is raised: who was not told is a warning on standard error."""
    return said(tell(event, title, body, link, environ))


def said(done: Sequence[Told]) -> list[str]:
    """Warn of who was not told; return who was."""
    print("".join(f"warning: {where} was not told: {why}\n" for where, why in done if why), end="", file=sys.stderr)
    return [where for where, why in done if not why]


def tell(event: str, title: str, body: str, link: str, environ: Mapping[str, str]) -> list[Told]:
    """Tell every channel."""
    wanted = listed(environ.get("NOTIFY_EVENTS", "")) or EVENTS[1:]
    done = [("NOTIFY_EVENTS", f"{name} is no event: {', '.join(EVENTS)}") for name in wanted if name not in EVENTS]
    body = f"{body.strip()}\n\n{link}".strip()
    urls = environ.get("NOTIFY_URLS", "").split() if event in wanted else []
    done += [channel(number, url, title, body, link) for number, url in enumerate(urls, 1)]
    if watched(event, environ):
        done.append(tried("an issue on GitHub", lambda: raised(event, title, body, environ)))
    return done


def channel(number: int, url: str, title: str, body: str, link: str) -> Told:
    """Send to an address. It holds tokens, often as its host: only what is surely a host is shown."""
    schema = (re.match(r"\w+(?=://)", url) or ["address"])[0]
    name = f"{schema} (number {number} of NOTIFY_URLS)"
    logging.getLogger("apprise").propagate = False  # what it says may hold a token
    try:
        import apprise

        asset = apprise.AppriseAsset(app_id=github.project(), app_url="", image_url_mask="", image_url_logo="")
        with apprise.LogCapture(level=logging.WARNING) as heard:
            one = apprise.Apprise(asset=asset)
            if not one.add(url):
                return name, "the address is none that apprise knows"
            if not one[0].template_tokens.get("host", {"private": True}).get("private"):
                name = f"{schema}://{one[0].host}"
            cut = body[:LONGEST].rpartition("\n")[0] or body[:LONGEST]
            short = body if len(body) <= LONGEST else f"{cut}\n\n...\n\n{link}"
            for wait in WAITS:
                time.sleep(wait)
                if one.notify(title=title, body=short or title, body_format=apprise.NotifyFormat.MARKDOWN):
                    return name, ""
                status = re.findall(r"error=(\d{3})", heard.getvalue())[-1:]
                if status and status[0] in {"400", "401", "403", "404", "410"}:  # it would answer the same
                    break
        return name, f"it answered with status {status[0]}" if status else "it did not take it"
    except Exception as error:  # noqa: BLE001 - a message that is not sent never fails what it tells of
        return name, "apprise is not installed: `make env`" if isinstance(error, ImportError) else type(error).__name__


def watched(event: str, environ: Mapping[str, str]) -> bool:
    """Return whether the event is an issue here."""
    return event in ISSUES and bool(environ.get("GITHUB_REPOSITORY") and environ.get("GH_TOKEN"))


def tried(where: str, act: Callable[[], str]) -> Told:
    """Do something on GitHub; return where, and why it failed."""
    try:
        return github.again(act), ""
    except Exception as error:  # noqa: BLE001 - as above
        return where, github.why(error)


def issue(repository: Any, event: str) -> Any:
    """Return the event's open issue, if there is one: it holds our mark."""
    found = repository.get_issues(state="open", labels=[event])
    return next((each for each in found if MARK.format(event) in (each.body or "")), None)


def raised(event: str, title: str, body: str, environ: Mapping[str, str]) -> str:
    """Open the event's issue, or renew it; return which."""
    repository = github.repository(environ)
    content = f"{MARK.format(event)}\n{body}"[:60_000]
    if found := issue(repository, event):
        found.edit(title=title, body=content)
    else:
        found = repository.create_issue(title=title, body=content, labels=[event])
    return f"issue #{found.number}"


def resolve(event: str, why: str, environ: Mapping[str, str]) -> str:
    """Close the event's issue, if one is open; return which."""
    found = issue(github.repository(environ), event)
    if not found:
        return "nobody: no issue is open"
    if why:
        found.create_comment(why)
    found.edit(state="closed")
    return f"issue #{found.number}: closed"


def finished() -> tuple[str, str]:
    """Return the headline of the last run's report, and its parameters and metrics."""
    found = report.load(read(paths.REPORT).encode(), str(paths.REPORT))
    params = yaml.safe_load(read(paths.PARAMS)).get("train", {}).get("params", {})
    line = ", ".join(f"{name} {value}" for name, value in params.items())
    return text.headline(found, rules.load(paths.GATES)), f"{line}\n\n{read(paths.REPORT.with_suffix('.md'))}"


def read(path: Path) -> str:
    """Return a text file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"it cannot be read: {error.strerror}", path, "--title and --body say it; or `make run`, then `make report`") from error  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
