"""`make run` from outside: what a user sees, and what is left after a mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from pawl import sample


@pytest.fixture
def table(project, tmp_path):
    """Write the sample as data.csv inside the project, as the source of params.yaml; undo everything after the test."""
    kept = {name: (project.path / name).read_bytes() for name in ("params.yaml", "schema.yaml", "src/task/metrics.py")}
    rows = pa.Table.from_batches(sample.batches(3000, 0, 0.0))
    pa.csv.write_csv(rows, project.path / "data.csv")
    project.set(**{"ingest.source": "data.csv"})
    yield rows
    for name, content in kept.items():
        (project.path / name).write_bytes(content)
    for name in ("data.csv", "data.parquet"):
        (project.path / name).unlink(missing_ok=True)


def rewrite(project, change):
    path = project.path / "data.csv"
    path.write_bytes(change(path.read_bytes()))


def typo(project, rows):
    project.edit("params.yaml", "min_rows", "min_rowz")


def unknown_parameter(project, rows):
    project.edit("params.yaml", "num_leaves", "num_leafs")


def missing_target(project, rows):
    project.set(target="incme")


def leaked_column(project, rows):
    leak = pa.array([0.5 if value == ">50K" else -0.5 for value in rows["income"].to_pylist()])
    pa.csv.write_csv(rows.append_column("score_after", leak), project.path / "data.csv")
    project.edit("schema.yaml", "columns:\n", "columns:\n  score_after: {dtype: number}\n")


def shuffled_header(project, rows):
    names = rows.column_names
    pa.csv.write_csv(rows.rename_columns(names[1:] + names[:1]), project.path / "data.csv")


def latin_1(project, rows):
    rewrite(project, lambda content: content.replace(b"Private", "Privé".encode("latin-1"), 1))


def empty(project, rows):
    rewrite(project, lambda _: b"")


def header_only(project, rows):
    rewrite(project, lambda content: content.splitlines(keepends=True)[0])


def truncated_parquet(project, rows):
    pq.write_table(rows, project.path / "data.parquet")
    whole = (project.path / "data.parquet").read_bytes()
    (project.path / "data.parquet").write_bytes(whole[: len(whole) // 2])
    project.set(**{"ingest.source": "data.parquet"})


def one_class(project, rows):
    rewrite(project, lambda content: content.replace(b'">50K"', b'"<=50K"'))


def changed_unit(project, rows):
    ages = pa.array([age * 1000 for age in rows["age"].to_pylist()])
    pa.csv.write_csv(rows.set_column(1, "age", ages), project.path / "data.csv")


def wrong_value(project, rows):
    project.set(**{"train.params.learning_rate": "fast"})


def no_probabilities(project, rows):
    project.set(**{"train.model": "sklearn.linear_model.RidgeClassifier", "train.params": {}})


def failing_metric(project, rows):
    (project.path / "src/task/metrics.py").write_text(
        "METRICS = {'profit': lambda y, prediction, probabilities: 1 / 0}\n"
    )


def taken_metric(project, rows):
    (project.path / "src/task/metrics.py").write_text(
        "METRICS = {'accuracy': lambda y, prediction, probabilities: 1.0}\n"
    )


def gone(project, rows):
    (project.path / "data.csv").unlink()


BAD = {
    typo: ["validate.min_rowz", "params.yaml:", "did you mean min_rows?"],
    unknown_parameter: ["train.params.num_leafs", "params.yaml:", "did you mean num_leaves?"],
    missing_target: ["target: incme", "did you mean income?"],
    leaked_column: ["score_after", "predicts the target almost perfectly", "validate.allow_leakage"],
    shuffled_header: ["rules are broken", "age", "schema.yaml"],
    latin_1: ["data.csv", "not utf-8", "line ", "latin-1"],
    empty: ["data.csv is empty", "ingest.source"],
    header_only: ["data.csv holds 0 rows", "ingest.source"],
    truncated_parquet: ["data.parquet", "not a complete parquet file"],
    one_class: ["income", "1 class in the target"],
    changed_unit: ["age", "has the unit changed?"],
    wrong_value: ["lightgbm.LGBMClassifier cannot be fitted", "fast", "train.params"],
    no_probabilities: ["RidgeClassifier gives no probabilities"],
    failing_metric: ["the metric profit failed: ZeroDivisionError", "src/task/metrics.py"],
    taken_metric: ["accuracy is a standard metric already"],
    gone: ["data.csv does not exist", "ingest.source"],
}


@pytest.mark.parametrize("mistake", BAD, ids=lambda mistake: mistake.__name__)
def test_a_mistake_gets_one_clear_message_and_changes_nothing(project, table, mistake):
    before = project.outputs()
    mistake(project, table)

    done = project.run(check=False)

    assert done.returncode == 2
    assert [fragment for fragment in BAD[mistake] if fragment not in done.stderr] == []
    assert done.stderr.count("error: ") >= 1
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("  ")
    assert project.outputs() == before


def test_cell_values_stay_at_home_unless_their_column_is_public(project, table):
    project.edit("schema.yaml", "values: [Female, Male]", "values: [Female]")
    project.edit("schema.yaml", "values: [Divorced, Married,", "values: [Divorced,")

    project.run(check=False)

    report = (project.path / ".pawl/validation.md").read_text()
    assert "Male" in report
    assert "Married" not in report


def test_what_came_from_the_data_is_inert_in_reports(project, table):
    rewrite(project, lambda content: content.replace(b'"Male"', b'"<img src=x>|@all"'))

    project.run(check=False)

    report = (project.path / ".pawl/validation.md").read_text()
    assert "<img" not in report
    assert "@all" not in report
    assert "&lt;img" in report


def test_a_second_run_runs_nothing(project):
    done = project.run()

    assert "nothing: no input changed" in done.stdout
    assert done.stderr == ""


def test_the_summary_shows_every_headline_metric_with_its_interval(project):
    test = json.loads((project.path / "reports/metrics.json").read_text())["test"]

    shown = project.run().stdout

    for name in ("roc_auc", "accuracy", "f1", "log_loss", "ece"):
        line = next(line for line in shown.splitlines() if line.split()[:1] == [name])
        assert line.split()[1:5] == [
            f"{test[name]['value']:.4f}",
            f"{test[name]['low']:.4f}",
            "to",
            f"{test[name]['high']:.4f}",
        ]
    assert max(map(len, shown.splitlines())) <= 100


def test_one_changed_cell_reruns_the_pipeline(project, table):
    project.run()
    first = json.loads((project.path / "data/source.json").read_text())["digest"]
    rewrite(project, lambda content: content.replace(b",40,", b",41,", 1))

    done = project.run()

    assert json.loads((project.path / "data/source.json").read_text())["digest"] != first
    assert "ran          ingest" in done.stdout


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["ingest", "train"])
def test_a_run_that_is_stopped_half_way_leaves_nothing_to_clean_up(project, how, code, stage):
    project.run()
    before = project.outputs()
    log = project.path / ".pawl/stages.jsonl"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "scripts.run", "--force", "--no-run-cache"]
    with subprocess.Popen(
        command, cwd=project.path, env=project.environ(), stderr=subprocess.PIPE, start_new_session=True
    ) as running:
        while not (log.exists() and {"ingest": "fingerprint", "train": "featurize"}[stage] in log.read_text()):
            time.sleep(0.01)
        os.killpg(running.pid, how) if how == signal.SIGINT else running.send_signal(how)  # as a terminal does
        running.communicate()

    assert running.returncode == code
    if how == signal.SIGKILL:  # what it had removed comes back with the next run, even one that fails
        project.set(**{"validate.min_rows": 10**6})
        assert project.run(check=False).returncode == 2
        project.set(**{"validate.min_rows": 1000})
    assert project.outputs() == before
    done = project.run()
    assert "roc_auc" in done.stdout
    assert {name: made for name, made in project.outputs().items() if "models/" in name} == {
        name: made for name, made in before.items() if "models/" in name
    }


def test_rows_and_columns_in_another_order_give_the_same_metrics(project, table):
    project.run()
    metrics = (project.path / "reports/metrics.json").read_text()
    order = pa.array(range(table.num_rows - 1, -1, -1))
    pa.csv.write_csv(table.take(order).select(table.column_names[::-1]), project.path / "data.csv")

    project.run()

    assert (project.path / "reports/metrics.json").read_text() == metrics


MODELS = {
    "sklearn.ensemble.RandomForestClassifier": {"n_estimators": 10, "max_depth": 6},
    "sklearn.ensemble.GradientBoostingClassifier": {"n_estimators": 10},
    "sklearn.ensemble.HistGradientBoostingClassifier": {"max_iter": 10},
    "sklearn.linear_model.LogisticRegression": {"max_iter": 500},
}


@pytest.mark.parametrize("model", MODELS)
def test_another_model_needs_configuration_only(project, table, model):
    params = yaml.safe_load((project.path / "params.yaml").read_text())
    params["train"] = {"model": model, "params": MODELS[model]}
    (project.path / "params.yaml").write_text(yaml.safe_dump(params))

    done = project.run()

    assert model.rpartition(".")[2] in done.stdout
    assert json.loads((project.path / "reports/metrics.json").read_text())["test"]["roc_auc"]["value"] > 0.8


@pytest.mark.parametrize(
    ("task", "target", "model", "metric"),
    [("multiclass", "marital_status", "LGBMClassifier", "f1_macro"), ("regression", "age", "LGBMRegressor", "rmse")],
)
def test_another_task_needs_configuration_only(project, table, task, target, model, metric):
    project.set(task=task, target=target, positive=None, **{"train.model": f"lightgbm.{model}", "evaluate.folds": 2})

    done = project.run()

    assert f"{model} for {target}" in done.stdout
    report = json.loads((project.path / "reports/metrics.json").read_text())
    assert report["test"][metric]["low"] < report["test"][metric]["value"] < report["test"][metric]["high"]
    assert f"cv_{metric}_mean" in report["cv"]


def test_a_part_of_the_pipeline_can_be_run_first(fresh):
    done = fresh.run("prepare")

    assert "ran          ingest" in done.stdout
    assert "not run      featurize, train, evaluate" in done.stdout
    assert not (fresh.path / "models").exists()


def test_a_mistake_in_your_code_names_the_stage_and_is_no_verdict(fresh):
    fresh.edit("src/task/data.py", "    return batch", "    return batch.columns[99]")

    done = fresh.run("ingest", check=False)
    told = fresh.run("ingest", "--debug", check=False)

    assert (done.returncode, told.returncode) == (70, 70)
    assert "  where: stage ingest\n  fix: python -m scripts.run --debug shows where\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert 'src/task/data.py", line 11, in tidy' in told.stderr


def test_a_stage_that_does_not_exist_is_one_clear_message(project):
    done = project.run("trian", check=False)

    assert done.returncode == 2
    assert "did you mean train?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_at_the_same_time_is_refused(project):
    import fcntl

    with (project.path / ".pawl/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        done = project.run(check=False)

    assert done.returncode == 3
    assert "another run" in done.stderr


def test_gpu_without_a_driver_says_what_is_missing(project, table):
    project.set(**{"train.device": "gpu"})

    done = project.run(check=False, OCL_ICD_VENDORS="/nonexistent", OPENCL_VENDOR_PATH="/nonexistent")

    assert done.returncode == 2
    assert "train.device is gpu" in done.stderr
    assert "/etc/OpenCL/vendors" in done.stderr


def test_an_example_keeps_its_outputs_apart_and_loses_no_row(project, tmp_path):
    before = project.outputs()
    project.call(sys.executable, "examples/adult/generate.py", str(tmp_path), "2000")

    done = project.run("--example", "adult", ADULT=str(tmp_path))

    counts = {
        name: int(rows.replace(",", ""))
        for name, rows in re.findall(r"(train|valid|test) ([\d,]+)(?= *[,\n])", done.stdout)
    }
    assert counts["test"] == 1000
    assert counts["train"] + counts["valid"] == 2000
    assert project.outputs() == before
