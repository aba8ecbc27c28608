"""README is held to the code: its commands, tree, tables and numbers."""

import json
import re
import subprocess
import typing
from pathlib import Path

import pytest

from pawl import config, metrics
from pawl.schema import Column
from pawl.serving.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split()


def block(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z0-9-]+)", README))))
def test_a_make_target_that_readme_names_exists(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_every_make_target_is_in_readme():
    targets = re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert [target for target in targets if f"make {target}" not in README] == []


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


@pytest.mark.parametrize("section", ["ingest", "validate", "prepare", "train", "evaluate", "columns", "drift"])
def test_every_key_of_a_section_is_in_readme(section):
    row = next(line for line in README.splitlines() if line.startswith(f"| `{section}`"))
    kind = typing.get_type_hints(config.Params)[section]

    assert [name for name in kind.__struct_fields__ if f"`{name}`" not in row] == []


def test_every_rule_of_a_column_is_in_readme():
    assert [name for name in Column.__struct_fields__ if f"`{name}`" not in README] == []


def test_every_metric_is_in_readme():
    documented = set(re.findall(r"`(\w+)`", README.split("Metrics. binary:")[1].split("\n\n")[0]))
    binary, multi, regression = (
        set(re.findall(r"\w+", line.split(":", 1)[1]))
        for line in (metrics.__doc__ or "").splitlines()
        if line.startswith(("binary:", "multiclass:", "regression:"))
    )

    assert (
        binary - {"of", "the", "positive", "label"} | multi - {"one", "against", "the", "rest", "mean"} | regression
        == documented
    )


def test_every_variable_that_the_code_reads_is_in_readme():
    read = set()
    for name in LISTED:
        if name.startswith(("src/", "scripts/")):
            read |= set(re.findall(r"PAWL_[A-Z_]+", (ROOT / name).read_text()))

    read |= {f"PAWL_{name.upper()}" for name in Settings.__struct_fields__}
    documented = {
        name for line in README.splitlines() if line.startswith("| `") for name in re.findall(r"`(PAWL_[A-Z_]+)`", line)
    }

    assert read - {"PAWL_WORKER", "PAWL_STORE"} == documented  # these are set, not read from users


def test_the_numbers_of_the_first_screen_are_those_of_the_sample():
    report = json.loads((ROOT / "tests/sample/metrics.json").read_text())

    for name in ("roc_auc", "accuracy", "f1", "log_loss", "ece"):
        value = report["test"][name]
        line = f"  {name:<12} {value['value']:>8.4f}  {value['low']:.4f} to {value['high']:.4f}"
        assert line in README
    assert f"roc_auc is {report['test']['roc_auc']['value']:.4f}, without a baseline;" in README


def test_the_numbers_for_adult_are_those_measured():
    test = json.loads((ROOT / "benchmarks/results/adult.json").read_text())["test"]

    assert f"**{100 * (1 - test['accuracy']['value']):.2f} % error and AUC {test['roc_auc']['value']:.4f}**" in README


def test_the_costs_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/pipeline.json").read_text())
    ratios = {name: entry["ratio"] for name, entry in measured["ratios"].items()}
    stages = [entry for name, entry in measured["figures"]["1,000,000 rows"].items() if name.startswith("stage ")]

    assert f"takes {ratios['Adult: cold, scripts.run / bare']:.1f} times as long as a bare script" in README
    assert f"{ratios['1,000,000 rows: cold, scripts.run / bare']:.1f} times\nat a million rows" in README
    assert (
        f"takes {ratios['Adult: no-op, scripts.run / dvc repro without fingerprint']:.2f} times as long as DVC's own"
        in README
    )
    assert 0 < max(entry["peak_mib"] for entry in stages) < 1000


def test_the_figures_of_the_service_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/serving.json").read_text())
    ratios, text = measured["ratios"], " ".join(block("The service").split())

    for name in ("mlflow", "bentoml", "mlserver", "fastapi"):
        assert measured["correct"][name]["null"] == measured["correct"]["mlflow"]["null"]
    for words in (
        f"{measured['data']['trees']} trees", f"{ratios['mlflow']['16']['median']:.0f} times as fast as `mlflow models serve`",
        f"{ratios['fastapi']['16']['median']:.0f} times as FastAPI", f"{ratios['uvicorn']['16']['median']:.2f} of what uvicorn",
        f"{ratios['mlflow']['batch']['median']:.1f} times as fast as MLflow's", f"{100 * measured['trees']['share']['median']:.0f} % of the time",
        *(f"{measured['cold'][name]['median']:.1f} s, {measured['memory_mib'][name]:.0f} MiB, {measured['site_packages_mb'][name]:.0f} MB" for name in ("ours", "mlflow")),
        f"Of {measured['correct']['mlflow']['null']['rows']} rows with a null", f"answered {measured['correct']['mlflow']['null']['wrong']} otherwise",
    ):  # fmt: skip
        assert words in text


def test_the_figures_of_the_simulated_year_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/simulation.json").read_text())
    text = " ".join(block("Watched, and retrained").split())

    for words in (
        f"{measured['alarms before the drift']} alarms in the six quiet months", f"drift seen in month {measured['alarms'][0]}",
        f"{100 * measured['last / first month']:.0f} % of that of month 1", f"{100 * measured['last / first month, never retrained']:.0f} % without",
    ):  # fmt: skip
        assert words in text


def test_the_figures_of_drift_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/drift.json").read_text())
    text, ratios = " ".join(block("Watched, and retrained").split()), measured["ratios"]
    quiet, shifted = ([100 * ratios[f"{rows} rows: {what}"] for rows in ("1,000", "4,000")] for what in ("quiet windows alarmed", "shifted windows found"))  # fmt: skip
    whole, column = ratios["1,000 rows: Evidently's DataDriftPreset, shifted: table, any column"]

    for words in (
        f"of {measured['windows']['1,000 rows']['quiet']} quiet ones {quiet[0]:.0f} and {quiet[1]:.0f} % are alarmed",
        f"of {measured['windows']['1,000 rows']['shifted']} whose largest change is just `drift.effect` {shifted[0]:.0f} and {shifted[1]:.0f} % are found",
        f"calls {100 * whole:.0f} % of them drifted, and finds a drifted column in {100 * column:.0f} %",
    ):  # fmt: skip
        assert words in text


def test_the_figures_of_batch_prediction_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/predict.json").read_text())
    text = " ".join(block("Watched, and retrained").split())

    assert not any(each["differ in a bit"] for each in measured["identity"].values())
    for words in (
        f"{measured['ratios']['plain script / ours']:.1f} times as fast as a pandas script",
        f"{measured['ratios']['mlflow models predict / ours, fewer rows']:.1f} times as `mlflow models predict`",
        f"ten million in {measured['ours alone']['peak_mib']:.0f} MiB",
    ):
        assert words in text


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
    million = "1,000,000 predictions: gate / roc_auc_score of both models"
    assert f"{measured['ratios'][million]:.1f} times the time of" in text


@pytest.mark.parametrize(
    "name",
    [
        "gate",
        "ledger",
        "selftest",
        "run",
        "stage",
        "schema",
        "lock",
        "report",
        "track",
        "tune",
        "deploy",
        "image",
        "store",
        "comment",
        "lint",
    ],
)
def test_a_script_shows_an_example(name, project):
    import sys

    done = project.call(sys.executable, "-m", f"scripts.{name}", "--help")

    assert f"python -m scripts.{name}" in done.stdout
