"""Take a later version of the template into this repository, a fork or a copy.

python -m scripts.update                                       the newest, from the remote `upstream`
python -m scripts.update --version v0.2.0 --from https://github.com/<owner>/<name>

What is between the version that pyproject.toml records and the new one comes here as one commit. What is yours (YOURS below) and
was edited stays as it is; what you removed stays away. Where both changed the same lines, git leaves its marks, and all is listed.

Exit code: 0 done, 2 your input, or a conflict that waits for you, 3 upstream did not answer.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pawl.problem import Problem, Unreachable
from scripts import cli

YOURS = (
    "src/task/*", "params.yaml", "schema.yaml", "gates.yaml", "dvc.lock", "reports/*", "data/*", "*.dvc", ".dvc/config",
    "README.md", "LICENSE", "CHANGELOG.md", "docs/*", ".github/CODEOWNERS",
)  # fmt: skip
LINES = ("name", "version", "description", "readme", "license", "template", "upstream")  # yours too, in pyproject.toml
REFS = "refs/pawl/"  # upstream's tags: not among yours, and never pushed
SETTLE = """git left its marks in these. Write what each shall be and `git add` it; where upstream removed it (UD), `git rm` is the other
answer, and for requirements/*.txt `git checkout --theirs`, with `make lock` when all is settled."""


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Fetch, show what is new, merge, say what is left to do."""
    parser = cli.parser("update", __doc__)
    parser.add_argument("--version", help="such as v0.2.0; the newest without")
    parser.add_argument("--from", dest="source", help="the template's repository: an address, or a folder")
    args = parser.parse_args(argv)
    have, source = state(args.source)
    new = chosen(args.version, have, fetch(source))
    if new == have:
        print(f"{have} is here, and {source} has nothing newer")
        return 0
    start, end = origin(have, new), git("rev-parse", f"{REFS}{new}^{{commit}}")
    base, ours, theirs = tree(start), tree("HEAD"), tree(end)
    news = changelog(git("show", f"{end}:CHANGELOG.md") if "CHANGELOG.md" in theirs else "", have, new)
    print(f"{have} -> {new}, from {source}\n\n{news}\n", flush=True)
    changed = sorted(path for path in base.keys() | theirs if theirs.get(path) not in {base.get(path), ours.get(path)})
    kept = left_alone(changed, start, base, ours)
    flows = [path for path in changed if path.startswith(".github/workflows/") and path not in kept]
    for side, version in ((base, have), (theirs, new)):
        for path in kept:  # the same on every side: nothing to merge
            side.pop(path, None)
            side.update({path: ours[path]} if path in ours else {})
        side["pyproject.toml"] = named(side["pyproject.toml"], version)
    pick(base, ours, theirs, f"Update the template to {new}\n\n{source}\n{end}\n\n{news}")
    if kept:
        print("\n  ".join(["kept as you have it, though upstream changed it:", *kept]))
    if flows:
        print("\n  ".join(["workflows that changed (a token that pushes them needs the scope `workflow`):", *flows]))
    print(f"what it did here: git show; what upstream did: git diff {start[:12]} {end[:12]} -- <path>")
    print("next: `make test`, and `make run`, which renews dvc.lock and reports/metrics.json")
    return 0


def state(source: str | None) -> tuple[str, str]:
    """Return the recorded version and where the template is; raise Problem unless an update can begin here."""
    top = git("rev-parse", "--show-toplevel", fix="go to the project; where it has no history: git init, add, commit")
    if Path(top).resolve() != Path.cwd().resolve():
        raise Problem("this is not the root of the repository", Path.cwd(), f"cd {top}")
    if dirty := [line.split(maxsplit=1)[1] for line in git("status", "--short", "--untracked-files=no").splitlines()]:
        fix = "commit or stash it; what is left of an update: git cherry-pick --abort, or git reset --hard"
        raise Problem(f"not committed: {', '.join(dirty[:5])}{', ...' * (len(dirty) > 5)}", Path.cwd(), fix)
    try:
        mine = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["pawl"]
        number(have := f"v{mine['template']}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        fix = 'write [tool.pawl] template = "0.1.0": the version that this was made from'
        raise Problem("the template's version is not recorded", "pyproject.toml", fix) from error
    if found := source or git("config", "--default", "", "remote.upstream.url") or mine.get("upstream"):
        return have, found
    fix = "make update FROM=<address>; to keep it: git remote add upstream <address>"
    raise Problem("where the template is kept is not known", "pyproject.toml, [tool.pawl] upstream", fix)


def fetch(source: str) -> list[str]:
    """Bring upstream's versions here; return them, the newest last."""
    words = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30", "fetch", "--quiet", "--no-tags", "--prune")
    try:
        git(*words, "--", source, f"+refs/tags/v*:{REFS}v*")
    except Problem as error:
        raise Unreachable(error.what, source, "see to the address, the network and your rights there") from error
    names = git("for-each-ref", "--format=%(refname:lstrip=2)", REFS).splitlines()
    return sorted((name for name in names if re.fullmatch(r"v\d+\.\d+\.\d+", name)), key=number)


def number(version: str) -> list[int]:
    """Return a version as numbers, which compare."""
    return [int(part) for part in version.removeprefix("v").split(".")]


def chosen(asked: str | None, have: str, known: list[str]) -> str:
    """Return the version to take; raise Problem where there is none such."""
    new = f"v{asked.removeprefix('v')}" if asked else [have, *known][-1]
    for name, where in ((have, "pyproject.toml, [tool.pawl] template"), (new, "--version")):
        if name not in known:
            raise Problem(
                f"upstream has no version {name}", where, f"it has {', '.join(known) or 'no tag like v0.1.0'}"
            )
    if number(new) < number(have):
        raise Problem(f"{new} is older than {have}, which is here", "--version", "git revert takes an update back")
    return new


def origin(have: str, new: str) -> str:
    """Return upstream's commit that this was made from: the recorded version, or a later one whose files were here."""
    mine = set(git("log", "--format=%T").split())
    later = [line.split() for line in git("log", "--format=%T %H", f"{REFS}{have}..{REFS}{new}").splitlines()]
    return next((commit for files, commit in later if files in mine), git("rev-parse", f"{REFS}{have}^{{commit}}"))


def changelog(text: str, have: str, new: str) -> str:
    """Return the sections of a changelog that are new here."""
    parts = re.findall(r"(?ms)^## v?(\d+\.\d+\.\d+)(.*?)(?=^## |\Z)", text)
    news = [f"{at}{rest}" for at, rest in parts if number(have) < number(at) <= number(new)]
    return "".join(news).strip() or "(CHANGELOG.md says nothing of it)"


def tree(commit: str) -> dict[str, str]:
    """Return the files of a commit: path, and mode, type and name of what it holds."""
    return {row.partition("\t")[2]: row.partition("\t")[0] for row in git("ls-tree", "-rz", commit).split("\0") if row}


def left_alone(changed: list[str], start: str, base: dict[str, str], ours: dict[str, str]) -> list[str]:
    """Return the paths that an update does not touch: yours and edited, removed here, in a folder removed here."""
    renames = ("--find-renames", "--diff-filter=D", "--name-only")  # what was only renamed is not removed
    removed = {*git("diff", "-z", *renames, start, "HEAD").split("\0")}
    was, here = ({folder for path in side for folder in PurePosixPath(path).parents} for side in (base, ours))
    edited = {path for path in changed if ours.get(path) != base.get(path)}
    yours = removed | {path for path in edited if any(fnmatch(path, each) for each in YOURS)}
    return [path for path in changed if path in yours or (was - here).intersection(PurePosixPath(path).parents)]


def named(entry: str, version: str) -> str:
    """Return an entry of pyproject.toml with your lines and a version in it: then an edit beside them is no conflict."""
    text, own = git("cat-file", "blob", entry.split()[2]), Path("pyproject.toml").read_text(encoding="utf-8")
    for key in LINES:
        mine, theirs = (re.search(rf"(?m)^{key} *=.*$", each) for each in (own, text))
        text = text.replace(theirs[0], mine[0], 1) if mine and theirs else text
    text = re.sub(r'(?m)^(template *= *")[^"]*', rf"\g<1>{version[1:]}", text) + "\n"
    return f"100644 blob {git('hash-object', '-w', '--stdin', given=text)}"


def pick(base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], message: str) -> None:
    """Bring what is between two trees onto HEAD, as one commit; raise Problem where it conflicts."""
    if hidden := [path for path in theirs.keys() - ours if os.path.lexists(path)]:
        raise Problem("upstream brings a file, and git does not keep the one here", hidden[0], "move it, or commit it")
    made: list[str] = []
    for files in (base, theirs):
        with tempfile.TemporaryDirectory() as folder:
            index, parent = {"GIT_INDEX_FILE": f"{folder}/index"}, [f"-p{each}" for each in made]
            rows = "".join(f"{entry}\t{path}\0" for path, entry in files.items())
            git("update-index", "-z", "--index-info", given=rows, **index)
            made = [git("commit-tree", git("write-tree", **index), *parent, "-m", message)]
    try:
        git("-c", "merge.directoryRenames=false", "cherry-pick", *made)
    except Problem as error:
        if not (marked := git("diff", "--name-only", "--diff-filter=U").splitlines()):
            raise
        print(f"{git('status', '--short', '--', *marked)}\n{SETTLE}")
        fix = "settle them, then git cherry-pick --continue; or back to before: git cherry-pick --abort"
        raise Problem(f"you and upstream changed the same: {', '.join(marked)}", Path.cwd(), fix) from error


def git(*words: str, given: str | None = None, fix: str = "see git's message", **environ: str) -> str:
    """Return what git prints; raise Problem with its message if it fails."""
    inside = {**os.environ, "LC_ALL": "C", **environ}
    done = subprocess.run(["git", *words], check=False, capture_output=True, input=given, text=True, env=inside)
    if done.returncode:
        raise Problem(f"git failed: {' '.join(done.stderr.split())[-500:]}", Path.cwd(), fix)
    return done.stdout.rstrip("\n")


if __name__ == "__main__":
    sys.exit(main())
