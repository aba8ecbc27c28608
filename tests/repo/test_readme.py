"""README is held to the code: its commands, tree and numbers. It goes when a fork writes a README of its own; test_docs.py holds the pages."""

import json
import re
import subprocess
from pathlib import Path

from tests.repo.pages import broken

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split()


def block(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_commands_and_places_that_it_names_are_there():
    assert broken(README) == []


def test_it_takes_ten_minutes_and_no_more():
    assert len(README.splitlines()) <= 220
    first = README.split("\n## ")[0]
    assert len(re.sub(r"<img.*?>", "", first).split()) < 200  # what fits on a screen, with its picture
    assert first.count("```console") == first.count("<img") == 1


def test_every_page_and_every_workflow_is_named():
    pages = [name for name in LISTED if name.startswith("docs/") and name.endswith(".md")]
    flows = {path.name for path in (ROOT / ".github/workflows").glob("*.yml")} - {"build.yml"}  # a part of release.yml

    assert [name for name in pages if f"]({name})" not in README] == []
    assert flows == set(re.findall(r"`(\w+\.yml)`", block("On GitHub")))


def test_pictures_are_there():
    named = re.findall(r'<img src="([^"]+)"', README) + re.findall(r"!\[.+?\]\(([^)]+)\)", README)

    assert len(named) == 2
    assert all((ROOT / name).exists() for name in named)


def test_the_tree_shows_what_is_there_and_nothing_else():
    shown, folder = set(), ""
    for line in block("The tree").split("```")[1].splitlines()[1:]:
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        shown.add(folder + name if line.startswith(" ") else name)
    top = {name.split("/")[0] + "/" if "/" in name else name for name in LISTED}
    ours = {
        "/".join(name.split("/")[:4])
        for name in LISTED
        if name.startswith("src/pawl/") and not name.endswith("__init__.py")
    }
    ours = {
        name if name.endswith(".py") and name.count("/") == 2 else "/".join(name.split("/")[:3]) + "/" for name in ours
    }
    shipped = {name for name in shown if not name.startswith("src/")}
    assert shipped - top == set()  # what is yours at the top needs no line here
    assert ours | {"src/task/", "src/pawl/"} == {name for name in shown if name.startswith("src/")}


def test_the_examples_are_those_that_are_there():
    line = next(line for line in block("The tree").splitlines() if line.startswith("examples/"))
    there = {name.split("/")[1] for name in LISTED if re.match(r"examples/\w+/", name)}

    assert set(re.findall(r"\w+", line)[1:]) == there
    assert [name for name in there if f"`{name}`" not in README and f"EXAMPLE={name}" not in README] == []


def test_the_numbers_of_the_first_screen_are_those_of_the_sample():
    report = json.loads((ROOT / "tests/sample/metrics.json").read_text())

    for name in ("roc_auc", "accuracy", "f1", "log_loss", "ece"):
        value = report["test"][name]
        line = f"  {name:<12} {value['value']:>8.4f}  {value['low']:.4f} to {value['high']:.4f}"
        assert line in README
    assert f"roc_auc is {report['test']['roc_auc']['value']:.4f}, without a baseline;" in README


def test_the_best_that_the_sample_lets_reach_is_said():
    from pawl.sample import ATTAINABLE_AUC

    assert f"an AUC of {ATTAINABLE_AUC}" in README


def test_the_numbers_for_adult_are_those_measured():
    test = json.loads((ROOT / "benchmarks/results/adult.json").read_text())["test"]

    assert f"**{100 * (1 - test['accuracy']['value']):.2f} % error and AUC {test['roc_auc']['value']:.4f}**" in README


def test_the_figures_of_the_gate_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/gate.json").read_text())
    shares, sizes = measured["shares that fail"], ("500", "2,000", "8,000")

    def said(kind, rule, digits):
        values = [f"{100 * shares[f'{size} rows, {kind}'][rule]:.{digits}f}" for size in sizes]
        return f"{values[0]}, {values[1]} and {values[2]} %"

    text = README.replace("\n", " ")
    assert f"the shipped rules fail {said('harmless', 'gates.yaml: fail for a loss', 1)}" in text
    assert f"fails {said('harmless', 'no drop', 0)}" in text
    assert f"they find {said('worse', 'gates.yaml: fail for a loss', 0)}" in text
