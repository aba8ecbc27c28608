"""Two models of a project side by side, in its embedded store: on which rows, by which numbers, and what is refused."""

import json
import math
import shutil
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import accuracy_score, roc_auc_score

from pawl import bundle, paths, rows, tracking
from pawl.pipeline import evaluate
from scripts import compare, register, report, track

LENIENT = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}
TEST = Path("data/prepared/test.parquet")


@pytest.fixture(scope="module")
def trained(project, tmp_path_factory):
    """Versions 1 and 3 of the same split, 2 of another; the checkout is that of version 3. Returns the bundles by version."""
    (project.path / "gates.yaml").write_text(yaml.safe_dump(LENIENT))
    bundles = {}
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(action="ignore"),
    ):  # MLflow's own, as it is imported
        enter(project, patch)
        for version, (trees, seed) in {"1": (30, 0), "2": (20, 1), "3": (12, 0)}.items():
            if version != "1":
                project.set(**{"train.params.n_estimators": trees, "prepare.seed": seed})
                project.run()
            project.commit(f"{trees} trees")
            assert (report.main([]), register.main([])) == (0, 0)
            bundles[version] = tmp_path_factory.mktemp("bundles") / version
            shutil.copytree("models/bundle", bundles[version])
    return bundles


def enter(project, patch):
    """Be in the project. Its store is named by an absolute path: MLflow keeps one connection per name, in whatever folder."""
    patch.chdir(project.path)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setattr(paths, "STORE", project.path / "mlflow.db")


@pytest.fixture
def here(trained, project, monkeypatch):
    """The project as the working directory; its test rows and configuration as they were after the test."""
    enter(project, monkeypatch)
    kept = {name: name.read_bytes() for name in (TEST, Path("params.yaml"), Path("schema.yaml"))}
    yield project
    for name, content in kept.items():
        name.unlink(missing_ok=True)
        name.write_bytes(content)


def told(capsys, *words):
    assert compare.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    assert compare.main(words) == 2
    return capsys.readouterr().err


def rewrite(table):
    TEST.unlink()  # it may be a link to DVC's cache
    pq.write_table(table, TEST)


def make_run(name="imported", status="FINISHED", metrics=None, **tags):
    """Put a run into the store that has no model; return its id."""
    with tracking.store() as store:
        run = store.client.create_run(store.experiment("elsewhere"), run_name=name, tags=tags).info.run_id
        for key, value in (metrics or {}).items():
            store.client.log_metric(run, key, value)
        if status != "RUNNING":
            store.client.set_terminated(run, status)
    return run


def run_of(version):
    with tracking.store() as store:
        return compare.of_version(store, version).info.run_id


def expected(folder, table):
    """Return what scikit-learn measures of a bundle on these rows."""
    prediction, probabilities = evaluate.score(bundle.load(folder), table)
    y = np.array(table.column("income").cast("string").to_pylist()) == ">50K"
    return {"roc_auc": roc_auc_score(y, probabilities[:, 1]), "accuracy": accuracy_score(y, prediction)}


def test_both_are_scored_on_the_test_rows_of_this_checkout_and_no_others(here, trained, capsys):
    table = pq.read_table(TEST)
    half = table.take(np.random.default_rng(0).permutation(table.num_rows)[::2])
    rewrite(half)

    found = told(capsys, "--versions", "1", "3")

    assert found["rows"] == f"on the same {half.num_rows} test rows"
    first, second = (expected(trained[version], half) for version in "13")
    for metric in ("roc_auc", "accuracy"):
        line = found["metrics"][metric]
        assert (line["first"]["value"], line["second"]["value"]) == pytest.approx((first[metric], second[metric]))
        assert line["difference"] == pytest.approx(first[metric] - second[metric])
        assert line["ratio"] == pytest.approx(first[metric] / second[metric])
        assert line["low"] <= line["difference"] <= line["high"]


def test_the_order_of_the_test_rows_changes_nothing(here, capsys):
    before = told(capsys, "--versions", "1", "3")
    table = pq.read_table(TEST)
    rewrite(table.take(np.random.default_rng(1).permutation(table.num_rows)))

    assert told(capsys, "--versions", "1", "3") == before


def test_rows_that_either_was_trained_on_are_left_out_and_counted(here, trained, capsys):
    table = pq.read_table(TEST)
    seen = set(pq.read_table("data/prepared/train.parquet").column("row_id").to_pylist())
    assert not seen & set(table.column("row_id").to_pylist())  # version 3 has seen none of them
    unseen = table.filter(~np.isin(rows.hash_column(table.column("row_id")), bundle.load(trained["2"]).trained_on))
    assert 0 < unseen.num_rows < table.num_rows

    found = told(capsys, "--versions", "2", "3"), told(capsys, "--versions", "3", "2")

    for each in found:
        left_out = table.num_rows - unseen.num_rows
        assert each["rows"] == f"on the same {unseen.num_rows} test rows; {left_out} that one of them was trained on are left out"  # fmt: skip
    assert found[0]["metrics"]["roc_auc"]["first"]["value"] == pytest.approx(expected(trained["2"], unseen)["roc_auc"])


def test_where_every_row_was_seen_it_says_so(here, trained, capsys):
    train = pq.read_table("data/prepared/train.parquet")
    rewrite(train)

    assert f"one of them was trained on all {train.num_rows:,} test rows" in refused(capsys, "--versions", "1", "3")


def test_the_screen_says_which_way_is_better_and_which_differences_may_be_chance(here, capsys):
    assert compare.main(["--versions", "1", "candidate"]) == 0

    screen = capsys.readouterr().out
    lines = screen.splitlines()
    found = told(capsys, "--versions", "1", "3")["metrics"]
    assert lines[0].startswith("version 1 against candidate, on the same ")
    assert lines[3].split()[:2] == ["roc_auc", "↑"]  # the first of gates.yaml
    assert lines[4].endswith(found["roc_auc"]["verdict"])
    assert any(line.split()[:2] == ["log_loss", "↓"] for line in lines)
    assert found["log_loss"]["verdict"] == ("better" if found["log_loss"]["difference"] < 0 else "worse")  # 12 trees
    assert {each["verdict"] for each in found.values()} <= {"better", "worse", "may be chance"}
    assert max(map(len, lines)) <= 100


def test_the_same_answers_are_the_same_and_not_better_by_chance(here, project, capsys):
    project.commit("only words")
    assert (report.main([]), track.main([])) == (0, 0)
    again = project.call("git", "rev-parse", "--short=7", "HEAD").stdout.strip()
    capsys.readouterr()

    found = told(capsys, again, run_of("3"))["metrics"]

    assert {each["verdict"] for each in found.values()} == {"same"}
    assert {each["difference"] for each in found.values()} == {0}


def content():
    with sqlite3.connect("mlflow.db") as database:
        lines = sorted(database.iterdump())
    database.close()
    return lines, {path: path.stat().st_mtime_ns for path in Path("mlartifacts").rglob("*")}


def test_it_is_logged_with_the_first_run_and_a_second_time_adds_nothing(here, capsys):
    first, second = run_of("1"), run_of("3")
    found = told(capsys, "--versions", "1", "3")
    before = content()

    assert told(capsys, first, second[:9]) == found  # through another door

    assert content() == before
    with tracking.store() as store:
        run, other = (store.client.get_run(each) for each in (first, second))
        file = store.download(run.info.artifact_uri, f"comparisons/{second}.json", here.path.parent)
    assert json.loads(file.read_text()) == found
    file.unlink()
    mark, auc = f"vs.{second[:7]}", found["metrics"]["roc_auc"]
    for name in ("difference", "ratio", "low", "high"):
        assert run.data.metrics[f"{mark}.roc_auc.{name}"] == auc[name]
    assert run.data.tags[mark].startswith("roc_auc ")
    assert found["rows"] in run.data.tags[mark]
    assert not [key for key in other.data.metrics if key.startswith(f"vs.{first[:7]}")]


def test_a_run_without_a_bundle_is_compared_by_its_logged_numbers(here, capsys):
    given = {"roc_auc": 0.9, "roc_auc.low": 0.88, "roc_auc.high": 0.91, "accuracy": 0.5, "speed": 3.0}
    imported, ours = make_run(metrics=given), run_of("3")
    with tracking.store() as store:
        mine = store.client.get_run(ours).data.metrics

    assert compare.main([imported, ours]) == 0
    screen = capsys.readouterr().out
    found = told(capsys, imported, ours)["metrics"]

    assert "Logged numbers, not the same rows." in screen
    assert "unpaired" in screen
    assert list(found) == ["roc_auc", "accuracy"]
    auc, low, high = (mine[f"test.roc_auc{end}"] for end in ("", ".low", ".high"))
    assert found["roc_auc"]["difference"] == pytest.approx(0.9 - auc)
    assert found["roc_auc"]["low"] == pytest.approx(0.9 - auc - math.sqrt(0.02**2 + (high - auc) ** 2))
    assert found["roc_auc"]["high"] == pytest.approx(0.9 - auc + math.sqrt(0.01**2 + (auc - low) ** 2))
    assert found["accuracy"]["ratio"] == pytest.approx(0.5 / mine["test.accuracy"])
    assert "low" not in found["accuracy"]  # one of the two has none
    assert found["accuracy"]["verdict"] == ""


def test_runs_without_a_common_metric_are_refused_with_what_each_has(here, capsys):
    one, two = make_run(metrics={"auc": 0.9}), make_run(metrics={"loss": 0.3})

    assert "no metric in common\n  where: auc; loss" in refused(capsys, one, two)


def test_what_was_changed_in_the_store_is_refused_before_it_is_loaded(here, trained, capsys, monkeypatch):
    (stored,) = (
        path for path in Path("mlartifacts").rglob("data/bundle")
        if bundle.digest_of(path) == bundle.digest_of(trained["1"])
    )  # fmt: skip
    loaded = []
    restore = bundle.restore
    monkeypatch.setattr(bundle, "restore", lambda content, where: loaded.append(content) or restore(content, where))
    evil = (stored / "pipeline.skops").read_bytes().replace(b"lightgbm", b"lightgbn", 1)
    (stored / "pipeline.skops").write_bytes(evil)

    changed = refused(capsys, "--versions", "1", "3")
    shutil.copytree(trained["3"], stored, dirs_exist_ok=True)  # whole, but another model
    other = refused(capsys, "--versions", "1", "3")

    shutil.copytree(trained["1"], stored, dirs_exist_ok=True)
    assert "pipeline.skops is not the file that was written" in changed
    assert "is not the one that was logged" in other
    assert loaded == []


def test_a_model_of_another_table_is_refused_with_the_difference(here, capsys):
    table = pq.read_table(TEST)
    rewrite(table.drop_columns(["age"]))
    assert "it needs age, not a column of the table" in refused(capsys, "--versions", "1", "3")

    here.set(positive="<=50K")
    assert "it predicts income (<=50K, >50K), and not income (>50K, <=50K)" in refused(capsys, "--versions", "1", "3")

    here.set(positive=">50K")
    rewrite(table)
    here.edit("schema.yaml", "age: {dtype: integer", "age: {dtype: number")
    assert "age is number now, and was integer" in refused(capsys, "--versions", "1", "3")


def test_without_test_rows_it_says_what_to_run(here, capsys):
    TEST.rename("aside")

    said = refused(capsys, "--versions", "1", "3")

    Path("aside").rename(TEST)
    assert "there are no test rows" in said
    assert "make run" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--versions", "1", "9"], "there is no version 9 of pawl"),
        (["--versions", "1", "champion"], "there is no version champion of pawl"),
        (["--versions", "candidate", "3"], "both are the same run"),
        (["0123456789", "1"], "there is no run 0123456789"),
        (["Robert'); DROP", "1"], "there is no run Robert'); DROP"),
        (['a"b', "1"], 'a"b cannot be asked for'),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_is_not_there_is_told_by_name(here, capsys, words, says):
    assert says in refused(capsys, *words)


@pytest.mark.parametrize(
    "words", [[], ["one"], ["1", "2", "3"], ["--versions", "1"], ["one", "two", "--baseline", "team=a"], ["one", "--versions", "1", "2"]]
)  # fmt: skip
def test_anything_but_two_models_is_a_mistake_of_the_command_line(capsys, words):
    with pytest.raises(SystemExit) as ended:
        compare.main(words)

    assert ended.value.code == 2


def test_a_beginning_or_a_name_that_several_runs_have_is_refused_with_their_ids(here, capsys):
    made = [make_run("twin") for _ in range(2)]
    while not (first := next((each[0] for each in made if sum(other[0] == each[0] for other in made) > 1), "")):
        made.append(make_run("another"))

    by_name, by_beginning = refused(capsys, "twin", "1"), refused(capsys, first, "1")

    assert "twin may be one of 2 runs: " in by_name
    assert all(each[:12] in by_name for each in made[:2])
    assert f"{first} may be one of " in by_beginning
    assert "write more of the id" in by_beginning


def test_a_run_that_is_not_whole_is_refused(here, capsys):
    cut_off = make_run("cut off", "RUNNING", {"roc_auc": 0.9})

    assert f"cut off {cut_off[:7]} is not whole: it is RUNNING" in refused(capsys, cut_off, run_of("3"))


def test_the_newest_finished_run_with_a_tag_is_the_baseline_and_named_where_there_are_several(here, capsys):
    make_run("old", metrics={"roc_auc": 0.6}, crew="search")
    newest = make_run("new", metrics={"roc_auc": 0.7}, crew="search")
    make_run("unfinished", "RUNNING", {"roc_auc": 0.8}, crew="search")
    with tracking.store() as store:
        for age, run in enumerate(store.client.search_runs([store.experiment("elsewhere")], order_by=["start_time"])):
            store.client.set_tag(run.info.run_id, "age", str(age))

    assert compare.main([run_of("3"), "--baseline", "crew=search"]) == 0

    said = capsys.readouterr()
    assert f"2 runs have the tag crew=search: new {newest[:7]}, the newest, is taken" in said.err
    assert f"against new {newest[:7]}" in said.out
    assert compare.main([newest, "--baseline", "crew=search"]) == 0  # never itself
    assert "against old" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("team=serch", "fix: there are: team=search ("),
        ("tim=search", "no other finished run has the tag tim=search"),
        ("team", "team is no tag"),
        ("team=", "team= is no tag"),
        ("a`b=c", "a`b=c is no tag"),
    ],
)  # fmt: skip
def test_a_tag_that_no_run_has_is_refused_with_those_that_are_there(here, capsys, tag, says):
    make_run("one", metrics={"roc_auc": 0.6}, team="search")

    assert says in refused(capsys, run_of("3"), "--baseline", tag)
