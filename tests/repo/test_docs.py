"""The pages in docs/, and all that is written here but README, are held to the code: commands, tables, names, numbers."""

import json
import re
import subprocess
import typing
from pathlib import Path

import pytest
import yaml

from benchmarks import verdicts
from pawl import config, metrics
from pawl.gate import rules
from pawl.schema import Column
from pawl.serving.settings import Settings
from scripts import lint
from tests.repo.pages import TARGETS, broken, help_of

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
PAGES = {name: (ROOT / name).read_text() for name in LISTED if name.endswith(".md") and name != "README.md" and not name.startswith("src/")}  # fmt: skip
CONFIGURATION = PAGES["docs/configuration.md"]
READERS = ("data-scientist", "platform-engineer", "operator", "security-reviewer")


def flat(page):
    return " ".join(PAGES[f"docs/{page}.md"].split())


def block(title):
    return CONFIGURATION.split(f"\n## {title}\n")[1].split("\n## ")[0]


def results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_commands_and_places_that_a_page_names_are_there(page):
    assert broken(PAGES[page]) == []


def test_what_an_alert_says_to_do_can_be_done():
    assert broken(re.sub(r'\\"', "'", (ROOT / "k8s/components/monitoring/cluster/rules.yaml").read_text())) == []


@pytest.mark.parametrize(
    "said",
    ["make tset", 'make run NOTES="x"', "python -m scripts.rapport", "python -m scripts.report --bases x", "scripts.rapport", "releases.yml", "src/task/model.yaml", "python -m pawl.serving.smoke --uri x"],
)  # fmt: skip
def test_what_is_not_there_is_found(said):
    assert broken(f"Do `{said}` then") != []
    assert broken(f"```sh\n{said}\n```\n") != [] or "/" in said  # a block may name files of the reader's


def test_links_and_form_are_in_order(monkeypatch):
    monkeypatch.chdir(ROOT)

    assert lint.markdown()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pictures_and_what_html_links_to_are_there(page):
    for name in re.findall(r'(?:src|srcset|href)="(?!https?:)([^"#]+)', PAGES[page]):
        assert (ROOT / page).parent.joinpath(name).exists(), name


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_shell_of_a_page_parses(page):
    for words in re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE):
        subprocess.run(["bash", "-n"], input=words, text=True, check=True)


def test_every_make_target_is_listed():
    assert [target for target in TARGETS if f"make {target}" not in block("Commands")] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "cli.parser(" in path.read_text()))  # fmt: skip
def test_a_script_shows_an_example(name):
    assert f"python -m scripts.{name}" in help_of(f"scripts.{name}")


@pytest.mark.parametrize("said", ["make help", "dvc status", "dvc dag", "dvc metrics diff", "python -m scripts.ledger show", "python -m scripts.promote --help"])  # fmt: skip
def test_what_is_cheap_runs_as_it_is_written(said, project):
    assert any(said.removesuffix(" --help") in text for text in PAGES.values())

    project.call("bash", "-c", said, PAWL_ENV="system")


@pytest.mark.parametrize("section", ["ingest", "validate", "prepare", "train", "evaluate", "columns", "tune", "retrain", "drift"])  # fmt: skip
def test_every_key_of_a_section_is_listed(section):
    row = next(line for line in block("params.yaml").splitlines() if line.startswith(f"| `{section}`"))
    kind = typing.get_type_hints(config.Params)[section]
    (kind,) = [each for each in typing.get_args(kind) if each is not type(None)] or [kind]

    assert [name for name in kind.__struct_fields__ if f"`{name}`" not in row and f"{name}:" not in row] == []


def test_every_section_is_listed():
    assert [name for name in config.Params.__struct_fields__ if f"`{name}`" not in block("params.yaml")] == []


def test_every_rule_of_a_column_is_listed():
    assert [name for name in Column.__struct_fields__ if f"`{name}`" not in block("schema.yaml")] == []


@pytest.mark.parametrize("kind", [rules.Rule, rules.Baseline, rules.Waiver, rules.Gates])
def test_every_key_of_the_gates_is_listed(kind):
    keys = set(kind.__struct_fields__) - {"version", "metrics"}

    assert [name for name in keys if f"`{name}`" not in block("gates.yaml")] == []


def test_every_metric_is_listed_with_its_task():
    said = dict(re.findall(r"^- (\w+): (.*)", block("Metrics"), re.MULTILINE))
    known = dict(re.findall(r"^(binary|multiclass|regression):(.*)", metrics.__doc__ or "", re.MULTILINE))
    words = {"of", "the", "positive", "label", "one", "against", "rest", "mean"}

    assert {kind: set(re.findall(r"`(\w+)`", line)) for kind, line in said.items()} == {kind: set(re.findall(r"\w+", line)) - words for kind, line in known.items()}  # fmt: skip


def test_every_variable_that_the_code_reads_is_listed():
    read = set()
    for name in LISTED:
        if name.startswith(("src/", "scripts/")):
            read |= set(re.findall(r"PAWL_[A-Z_]+", (ROOT / name).read_text()))

    read |= {f"PAWL_{name.upper()}" for name in Settings.__struct_fields__}
    rows = [line for line in block("Environment variables").splitlines() if line.startswith("| `")]
    documented = {name for line in rows for name in re.findall(r"`(PAWL_[A-Z_]+)`", line)}

    assert read - {"PAWL_WORKER", "PAWL_STORE", "PAWL_ROUNDS"} == documented  # these are set, not read from users


def test_what_the_workflows_are_given_is_listed():
    flows = "".join(path.read_text() for path in (ROOT / ".github").glob("*/*.yml"))
    rows = [line.split(" | ")[0] for line in block("Variables and secrets on GitHub").splitlines() if line[:3] in {"| s", "| v"}]  # fmt: skip
    given = set(re.findall(r"\b(?:vars|secrets)\.([A-Z][A-Z_]+)", flows))

    assert given == {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


def test_every_alert_has_its_first_step():
    alerts = {rule["alert"] for group in yaml.safe_load((ROOT / "k8s/components/monitoring/cluster/rules.yaml").read_text())["groups"] for rule in group["rules"] if "alert" in rule}  # fmt: skip
    table = PAGES["docs/operator.md"].split("\n## Alerts\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "alert" not in line]

    assert sorted(alerts) == sorted(name for row in rows for name in re.findall(r"\w+", row))


def test_every_workflow_is_listed():
    table = PAGES["docs/platform-engineer.md"].split("\n## A repository on GitHub\n")[1].split("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+\.yml)` \|", table, re.MULTILINE)) == {path.name for path in (ROOT / ".github/workflows").glob("*")}  # fmt: skip


def test_the_files_of_the_task_are_listed():
    table = PAGES["docs/data-scientist.md"].split("\n## Features, metrics, model\n")[1].split("\n## ")[0]
    there = {path.name for path in (ROOT / "src/task").glob("*.py")} - {"__init__.py"}

    assert set(re.findall(r"^\| `(\w+\.py)`", table, re.MULTILINE)) >= there & {"data.py", "params.py", "features.py", "model.py", "metrics.py", "slices.py"}  # fmt: skip


def test_the_service_is_asked_with_the_sample_s_record():
    (record,) = re.findall(r"--data '(.*?)'", PAGES["docs/operator.md"])
    columns = yaml.safe_load((ROOT / "tests/sample/schema.yaml").read_text())["columns"]

    assert set(json.loads(record)) == set(columns) - {"income", "month"}
    answer = json.loads(re.findall(r"^```json\n(.*?)^```", PAGES["docs/operator.md"], re.DOTALL | re.MULTILINE)[0])
    assert set(answer) == {"predictions", "probabilities", "model_version", "request_id"}


@pytest.mark.parametrize("page", READERS)
def test_a_reader_s_page_says_what_it_does_not_do(page):
    assert PAGES[f"docs/{page}.md"].count("\n## Limits\n") == 1


def test_the_costs_are_those_measured():
    measured = results("pipeline")
    ratios = {name: entry["ratio"] for name, entry in measured["ratios"].items()}
    stages = [entry for name, entry in measured["figures"]["1,000,000 rows"].items() if name.startswith("stage ")]

    for words in (
        f"takes {ratios['Adult: cold, scripts.run / bare']:.1f} times as long as a bare script",
        f"{ratios['1,000,000 rows: cold, scripts.run / bare']:.1f} times at a million rows",
        f"takes {ratios['Adult: no-op, scripts.run / dvc repro without fingerprint']:.2f} times as long as DVC's own",
    ):
        assert words in flat("data-scientist")
    assert 0 < max(entry["peak_mib"] for entry in stages) < 1000


def test_the_figures_of_the_service_are_those_measured():
    measured = results("serving")
    ratios = measured["ratios"]

    for name in ("mlflow", "bentoml", "mlserver", "fastapi"):
        assert measured["correct"][name]["null"] == measured["correct"]["mlflow"]["null"]
    for words in (
        f"{measured['data']['trees']} trees", f"{ratios['mlflow']['16']['median']:.0f} times as fast as `mlflow models serve`",
        f"{ratios['fastapi']['16']['median']:.0f} times as FastAPI", f"{ratios['uvicorn']['16']['median']:.2f} of what uvicorn",
        f"{ratios['mlflow']['batch']['median']:.1f} times as fast as MLflow's", f"{100 * measured['trees']['share']['median']:.0f} % of the time",
        *(f"{measured['cold'][name]['median']:.1f} s, {measured['memory_mib'][name]:.0f} MiB, {measured['site_packages_mb'][name]:.0f} MB" for name in ("ours", "mlflow")),
        f"Of {measured['correct']['mlflow']['null']['rows']} rows with a null", f"answered {measured['correct']['mlflow']['null']['wrong']} otherwise",
    ):  # fmt: skip
        assert words in flat("operator")


def test_the_figures_of_the_simulated_year_are_those_measured():
    measured = results("simulation")

    for words in (
        f"{measured['alarms before the drift']} alarms in the six quiet months", f"drift seen in month {measured['alarms'][0]}",
        f"{100 * measured['last / first month']:.0f} % of that of month 1", f"{100 * measured['last / first month, never retrained']:.0f} % without",
    ):  # fmt: skip
        assert words in flat("operator")


def test_the_gain_of_a_search_is_the_one_measured():
    measured = results("tune")["adult"]
    gain, low, high = (f"{each:.4f}".replace("-", "−") for each in (measured["gain"], *measured["95 % interval, paired (DeLong)"]))  # fmt: skip

    assert not measured["differs from zero"]
    said = f"on Adult the best of {measured['trials']} trials moves the AUC of the test rows by {gain} (95 % interval {low} to {high})"
    assert said in flat("data-scientist")


def test_the_figures_of_searches_are_those_measured():
    measured = results("tune")
    two, killed = (measured["processes"][name] for name in ("2", "2, one killed, another joins"))
    ended, median = (measured["pruning"][name] for name in ("tune.prune", "Optuna's median, from the first round on"))
    best = {name: measured["samplers"][name]["best"] for name in ("grid", "random", "tpe")}

    assert {each[what] for each in (two, killed, measured["processes"]["4"]) for what in ("lost", "twice")} == {0}
    for words in (
        f"Two processes on one Postgres study are {two['times as fast as one']} times as fast as one, on two cores",
        f"none of {killed['trials']} trials is lost, none is done twice",
        f"of {measured['pruning']['searches']} searches it spares {100 * ended['rounds spared']:.0f} % of the rounds, and the AUC of the best is {ended['roc_auc lost, mean']:.4f} lower on average",
        f"Optuna's median would spare {100 * median['rounds spared']:.0f} %, and lose {median['roc_auc lost, mean']:.4f}",
        f"With the {measured['samplers']['trials']} trials of a grid, the best AUC on validation rows is {best['grid']:.4f} by the grid, {best['random']:.4f} by random draws, {best['tpe']:.4f} by TPE",
    ):
        assert words in flat("data-scientist")


def test_the_figures_of_drift_are_those_measured():
    measured = results("drift")
    ratios = measured["ratios"]
    quiet, shifted = ([100 * ratios[f"{rows} rows: {what}"] for rows in ("1,000", "4,000")] for what in ("quiet windows alarmed", "shifted windows found"))  # fmt: skip
    whole, column = ratios["1,000 rows: Evidently's DataDriftPreset, shifted: table, any column"]

    for words in (
        f"of {measured['windows']['1,000 rows']['quiet']} quiet ones {quiet[0]:.0f} and {quiet[1]:.0f} % are alarmed",
        f"of {measured['windows']['1,000 rows']['shifted']} whose largest change is just `drift.effect` {shifted[0]:.0f} and {shifted[1]:.0f} % are found",
        f"calls {100 * whole:.0f} % of them drifted, and finds a drifted column in {100 * column:.0f} %",
    ):  # fmt: skip
        assert words in flat("operator")


def test_the_figures_of_batch_prediction_are_those_measured():
    measured = results("predict")

    assert not any(each["differ in a bit"] for each in measured["identity"].values())
    for words in (
        f"{measured['ratios']['plain script / ours']:.1f} times as fast as a pandas script",
        f"{measured['ratios']['mlflow models predict / ours, fewer rows']:.1f} times as `mlflow models predict`",
        f"ten million in {measured['ours alone']['peak_mib']:.0f} MiB",
    ):
        assert words in flat("data-scientist")


def test_the_figures_of_the_registry_are_those_measured():
    measured = results("registry")

    for words in (
        f"it adds {measured['registration']['added to make run, seconds']} s to `make run`, {measured['registration']['share of make run']:.2f} of a first one",
        f"a first registration takes {measured['registration']['first registration / MLflow alone']:.2f} times as long as MLflow alone",
        f"of {measured['store']['versions']} versions kept, one more is pushed in {measured['store']['one version more / the first push']:.2f} times the time of the first push",
    ):
        assert words in flat("platform-engineer")


def test_the_figures_of_the_gate_are_those_measured():
    measured = results("gate")
    million = measured["figures"]["1,000,000 predictions"]["gate"]
    ratio = measured["ratios"]["1,000,000 predictions: gate / roc_auc_score of both models"]
    covered = {name: 100 * share for name, share in measured["coverage"].items()}
    others = [share for name, share in covered.items() if not name.startswith("ece")]

    for words in (
        f"compared in {ratio:.1f} times the time of scikit-learn's `roc_auc_score` on both models, in {million['peak_mib']:.0f} MiB",
        f"of a difference of `ece` holds in {covered['ece, 2,000 rows']:.0f} % of cases (of the others measured {min(others):.0f} to {max(others):.0f} %)",
    ):
        assert words in flat("data-scientist")


def test_the_picture_of_the_gate_is_drawn_from_what_was_measured():
    found, gates = results("verdicts"), yaml.safe_load((ROOT / "tests/sample/gates.yaml").read_text())

    assert (ROOT / ".github/gate.svg").read_text() == verdicts.drawn(found)
    assert gates["metrics"]["roc_auc"]["max_regression"] == -verdicts.ALLOWED
    assert [each["verdict"] for each in found["changes"].values()] == ["improved", "pass", "pass", "inconclusive", "fail"]  # fmt: skip
    assert found["changes"].keys() == verdicts.CHANGES.keys()
