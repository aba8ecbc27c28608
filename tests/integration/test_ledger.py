"""`python -m scripts.ledger`, asked in this process: a checkout, a bare repository that takes pushes."""

import json
import os
import re
import subprocess

import msgspec
import pytest

from pawl import answers, report
from pawl.ledger import ANSWERS, ENTRY, Ledger
from scripts import ledger as script

RULES = "version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.5}}\n"
RELEASE = ("release", "--version", "3", "--digest", f"sha256:{'3' * 64}", "--image", "model@sha256:3")
TOKEN = "ghs_0123456789secret"


class Checkout:
    """main as a runner has it after a run and its report."""

    def __init__(self, folder, craft, capture):
        self.path, self.craft, self.capture, self.remote = folder / "checkout", craft, capture, folder / "remote.git"
        self.path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("gates.yaml", RULES)
        self.write(".gitignore", "/reports/\n")
        self.write("dvc.lock", "schema: '2.0'\n")
        self.commit("start")
        self.report()

    def write(self, name, content):
        (self.path / name).parent.mkdir(exist_ok=True, parents=True)
        (self.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def git(self, *words, where=None):
        return subprocess.run(
            ["git", *words], cwd=where or self.path, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    @property
    def head(self):
        return self.git("rev-parse", "HEAD")

    def report(self, noise=0.0, folder="", **fields):
        """Leave what a report leaves."""
        mine = self.craft.answers(noise)
        found = msgspec.structs.replace(self.craft.report(mine, commit=fields.pop("commit", self.head)), **{"verdict": "pass", "allowed": True} | fields)  # fmt: skip
        self.write(f"{folder}reports/report.json", report.dump(found))
        self.write(f"{folder}reports/candidate.answers", answers.dump(mine))

    def ask(self, *words, **environ):
        """Return the exit code, what was said, what was complained of."""
        code = script.main(words, environ)
        said = self.capture.readouterr()
        assert TOKEN not in said.out + said.err
        return code, said.out, said.err

    def tip(self, where=None):
        return self.git("rev-parse", "ledger", where=where)

    def with_remote(self):
        self.git("init", "--quiet", "--bare", str(self.remote))
        self.git("remote", "add", "origin", str(self.remote))
        self.git("push", "--quiet", "origin", "main")


@pytest.fixture
def checkout(tmp_path, craft, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith(("GIT_", "GITHUB_", "GH_", "PAWL_"))]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        for key in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{key}", "tester@example.org")
    made = Checkout(tmp_path, craft, capsys)
    monkeypatch.chdir(made.path)
    return made


def test_an_entry_holds_what_the_report_said_and_the_files_that_prove_it(checkout):
    code, out, _ = checkout.ask("record")

    kept = Ledger()
    entry = kept.entry(checkout.head)
    assert (code, out) == (0, f"{checkout.head[:7]} is in the ledger: pass, 400 answers\n")
    assert kept.commits() == {checkout.head}
    assert (entry.verdict, entry.allowed, entry.digest) == ("pass", True, checkout.craft.digest)
    assert entry.rows == kept.answers(entry).digest == checkout.craft.answers().digest
    assert entry.facts.metrics["roc_auc"].n == 400
    assert kept.file(entry, "dvc.lock") == (checkout.path / "dvc.lock").read_bytes()
    assert kept.file(entry, "report.json") == (checkout.path / "reports/report.json").read_bytes()
    assert checkout.git("log", "-1", "--format=%s|%an", "ledger") == f"{checkout.head[:7]}: pass|github-actions[bot]"


def test_recording_leaves_the_checkout_as_it_was(checkout):
    before = checkout.head, checkout.git("status", "--porcelain"), checkout.git("ls-files", "--stage")

    checkout.ask("record")

    assert (checkout.head, checkout.git("status", "--porcelain"), checkout.git("ls-files", "--stage")) == before


def test_recording_again_changes_nothing(checkout, monkeypatch):
    checkout.ask("record")
    tip = checkout.tip()
    monkeypatch.setattr("time.strftime", lambda *_: "2099-01-01T00:00:00Z")

    code, out, _ = checkout.ask("record")

    assert (code, out) == (0, f"the ledger has {checkout.head[:7]} already\n")
    assert checkout.tip() == tip


def test_another_result_of_the_same_commit_takes_the_place_of_the_first(checkout):
    checkout.ask("record")
    checkout.report(noise=1.0, verdict="fail", allowed=False)

    checkout.ask("record")

    assert Ledger().entry(checkout.head).verdict == "fail"
    assert Ledger().answers(Ledger().entry(checkout.head)).digest == checkout.craft.answers(1.0).digest


@pytest.mark.parametrize("name", [ENTRY, ANSWERS])
def test_recording_again_mends_an_entry_that_cannot_be_trusted(checkout, name):
    checkout.ask("record")
    Ledger().write({f"baselines/{checkout.head}/{name}": b"damage"}, "damage")

    code, out, _ = checkout.ask("record")

    assert (code, out) == (0, f"{checkout.head[:7]} is in the ledger: pass, 400 answers\n")
    assert Ledger().answers(Ledger().entry(checkout.head)) is not None


def test_only_as_many_answers_are_kept_as_the_gates_say(checkout):
    checkout.write("gates.yaml", f"{RULES}baseline: {{predictions: 100}}\n")
    checkout.ask("record")
    assert len(Ledger().answers(Ledger().entry(checkout.head)).rows) == 100

    checkout.write("gates.yaml", f"{RULES}baseline: {{predictions: 0}}\n")
    checkout.commit("no answers")
    checkout.report()
    checkout.ask("record")
    assert Ledger().answers(Ledger().entry(checkout.head)) is None


def test_what_a_run_left_elsewhere_is_recorded_from_there(checkout, tmp_path):
    checkout.report(noise=0.5, folder=f"{tmp_path}/artifact/")
    checkout.write(tmp_path / "artifact/dvc.lock", "of the run\n")

    code, _, _ = checkout.ask("record", "--from", str(tmp_path / "artifact"))

    entry = Ledger().entry(checkout.head)
    assert code == 0
    assert entry.rows == checkout.craft.answers(0.5).digest
    assert Ledger().file(entry, "dvc.lock") == b"of the run\n"


def of_no_commit(commit):
    return lambda checkout: checkout.report(commit=commit or f"{checkout.head}-dirty")


REFUSED = {
    "a model of files that are in no commit": (of_no_commit(""), "the model is of no commit: "),
    "a model of nobody knows what": (of_no_commit("unknown"), "the model is of no commit: unknown"),
    "answers that are not the report's": (lambda checkout: checkout.write("reports/candidate.answers", answers.dump(checkout.craft.answers(seed=1))), "the answers are not those of the report"),
    "answers that are none": (lambda checkout: checkout.write("reports/candidate.answers", b"PK"), "these are no answers of a model"),
    "a report that is none": (lambda checkout: checkout.write("reports/report.json", b"{}"), "not a report: "),
    "no report": (lambda checkout: (checkout.path / "reports/report.json").unlink(), "reports/report.json does not exist"),
    "no answers": (lambda checkout: (checkout.path / "reports/candidate.answers").unlink(), "reports/candidate.answers does not exist"),
    "no lock": (lambda checkout: (checkout.path / "dvc.lock").unlink(), "dvc.lock does not exist"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_whole_is_2_and_not_recorded(checkout, spoil, why):
    spoil(checkout)

    code, out, complained = checkout.ask("record")

    assert (code, out) == (2, "")
    assert f"error: {why}" in complained
    assert Ledger().commits() == set()


def test_the_entries_are_shown_the_newest_first_with_what_is_served(checkout):
    first = checkout.head
    checkout.ask("record")
    checkout.ask(*RELEASE)
    checkout.commit("worse")
    checkout.report(noise=1.0, verdict="fail", allowed=False)
    checkout.ask("record")
    checkout.commit("only words")

    code, out, _ = checkout.ask("show")

    lines = out.splitlines()
    assert code == 0
    assert re.match(rf"{checkout.git('rev-parse', 'HEAD^')[:7]}  2\S+Z  ❌ fail  ", lines[0])
    assert re.match(rf"{first[:7]}  2\S+Z  ✅ pass  .*  champion, version 3$", lines[1])
    assert len(lines) == 2


def test_an_empty_ledger_says_what_writes_it(checkout):
    code, out, _ = checkout.ask("show")

    assert (code, out) == (0, "the ledger has no entry of a commit here: a release writes one, `python -m scripts.ledger record` does\n")  # fmt: skip


def test_a_release_is_appended_and_served_and_again_changes_nothing(checkout):
    checkout.ask("record")
    code, out, _ = checkout.ask(*RELEASE, "--environment", "local", GITHUB_ACTOR="octocat")
    tip = checkout.tip()
    checkout.ask(*RELEASE, "--environment", "local", GITHUB_ACTOR="octocat")

    (served,) = Ledger().releases()
    assert (code, out) == (0, f"release {served.name}: version 3 is served, of {checkout.head[:7]}\n")
    assert served == Ledger().champion()
    assert (served.commit, served.version, served.digest) == (checkout.head, "3", f"sha256:{'3' * 64}")
    assert (served.verdict, served.by, served.environment) == ("pass", "octocat", "local")
    assert checkout.tip() == tip


def test_the_summary_holds_all_that_a_release_is_known_by_and_no_markup_of_others(checkout, tmp_path):
    summary = tmp_path / "summary.md"
    words = ["--environment", "production", "--rejected", "4", "--reason", "a | b `c` <img> @me"]
    for _ in range(2):  # done again, it is said again
        checkout.ask(*RELEASE, *words, GITHUB_STEP_SUMMARY=str(summary))

    first, second = summary.read_text().split("### Release ")[1:]
    assert first == second
    for name, value in (("version", "3"), ("environment", "production"), ("commit", checkout.head), ("rejected", "4")):
        assert f"| {name} | `{value}` |" in first
    (reason,) = [line for line in first.splitlines() if line.startswith("| reason |")]
    assert reason.count("|") - reason.count("\\|") == 3, reason


def test_what_a_later_release_has_overtaken_is_refused(checkout):
    assert checkout.ask("overtaken")[0] == 0
    checkout.ask(*RELEASE)
    assert checkout.ask("overtaken")[0] == 0
    first = checkout.head
    checkout.commit("later")
    assert checkout.ask("overtaken")[0] == 0
    checkout.ask(*RELEASE[:-1], "model@sha256:5")
    checkout.git("checkout", "--quiet", first)

    code, _, said = checkout.ask("overtaken")

    assert code == 2
    assert f"was released, and {first[:7]} does not come after that" in said


def test_one_model_may_have_many_images_and_a_way_back_is_a_release_too(checkout, monkeypatch):
    for number, words in enumerate(((), ("--image", "model@sha256:4"), ("--rejected", "4", "--reason", "wrong"))):
        monkeypatch.setattr("time.gmtime", lambda *_, number=number: (2026, 1, 1, 0, 0, number, 3, 1, 0))
        assert checkout.ask(*RELEASE, *words)[0] == 0

    releases = Ledger().releases()
    assert [each.made[-3:] for each in releases] == ["02Z", "01Z", "00Z"]
    assert [each.image for each in releases] == ["model@sha256:3", "model@sha256:4", "model@sha256:3"]
    assert (Ledger().champion().rejected, Ledger().champion().reason) == ("4", "wrong")


@pytest.mark.parametrize("words", [[], ["forget"], ["release", "--version", "3"], ["record", "--fro", "x"]], ids=str)
def test_wrong_words_are_2(checkout, words):
    with pytest.raises(SystemExit) as stopped:
        checkout.ask(*words)

    assert stopped.value.code == 2


def test_the_remote_gets_the_entry(checkout):
    checkout.with_remote()

    code, _, complained = checkout.ask("record", GH_TOKEN=TOKEN)

    assert code == 0, complained
    assert checkout.tip(checkout.remote) == checkout.git("rev-parse", "origin/ledger")
    assert Ledger().commits() == {checkout.head}


def test_what_another_writer_has_pushed_stays(checkout, tmp_path):
    checkout.with_remote()
    checkout.ask("record")
    checkout.git("clone", "--quiet", str(checkout.remote), str(tmp_path / "other"))
    Ledger(tmp_path / "other").write({"baselines/of-another/entry.json": b"{}"}, "another")

    checkout.ask(*RELEASE)

    names = checkout.git("ls-tree", "-r", "--name-only", "ledger", where=checkout.remote).splitlines()
    assert {"champion.json", "baselines/of-another/entry.json", f"baselines/{checkout.head}/entry.json"} <= set(names)


@pytest.mark.parametrize("verb", [["record"], RELEASE], ids=["record", "release"])
@pytest.mark.parametrize("trouble", ["it is away", "it refuses"])
def test_a_remote_that_does_not_take_it_is_3_with_its_own_words(checkout, monkeypatch, trouble, verb):
    checkout.with_remote()
    hook = checkout.remote / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected branch >&2\nexit 1\n")
    hook.chmod(0o755)
    if trouble == "it is away":
        checkout.remote.rename(checkout.remote.with_name("moved"))
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)

    code, out, complained = checkout.ask(*verb, GH_TOKEN=TOKEN)

    assert (code, out) == (3, "")
    assert ("does not appear to be a git repository" if trouble == "it is away" else "protected branch") in complained
    assert "Traceback" not in complained
    assert waited == []  # a no is not asked for again


def test_a_champion_file_that_cannot_be_read_is_told(checkout):
    Ledger().write({"champion.json": json.dumps({"version": 3}).encode()}, "damage")

    code, _, complained = checkout.ask("show")

    assert code == 2
    assert "the ledger's champion.json cannot be read" in complained
