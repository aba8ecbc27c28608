"""One version per model, whoever registers it, how often, how many at once, and wherever it was killed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from pawl import tracking

OWN = {"MLmodel", "estimator.html"}  # they hold ids and times


def test_registered_twice_it_is_one_run_and_one_version(registry):
    first = registry.do("register")
    again = registry.do("register")
    registry.forget()
    third = registry.do("register")

    assert first.startswith("pawl version 1 is in ")
    assert "(new; candidate): sha256:" in first
    assert again == third == first.replace("(new;", "(registered before;")
    assert [status for _, status in registry.runs] == ["FINISHED"]
    assert list(registry.versions) == ["1"]
    assert registry.aliases == {"candidate": "1"}


def test_the_workflow_gets_version_and_digest_each_time(registry, tmp_path):
    digest = json.loads((registry.path / "models/bundle/manifest.json").read_text())["digest"]
    for name in ("first", "again"):
        registry.do("register", environ={"GITHUB_OUTPUT": str(tmp_path / name)})

        assert (tmp_path / name).read_text() == f"version=1\ndigest={digest}\n"


def test_the_same_model_of_another_commit_is_a_run_and_no_version(registry):
    first = registry.commit("a model")
    registry.do("register")
    second = registry.commit("only words")

    said = registry.do("register")

    assert "version 1 " in said
    assert "(registered before; candidate)" in said
    assert len(registry.runs) == 2
    assert registry.versions["1"]["pawl.commits"] == f"{first} {second}"
    assert registry.versions["1"]["pawl.commit"] == second
    assert list(registry.versions) == ["1"]


def test_images_are_gathered_and_an_image_given_twice_is_one(registry):
    for image in ("model@sha256:1", "model@sha256:2", "model@sha256:1"):
        registry.do("register", "--image", image)
        registry.forget()

    assert registry.versions["1"]["pawl.images"] == "model@sha256:1 model@sha256:2"


def test_another_model_is_the_next_version_and_the_candidate(registry):
    registry.do("register")
    registry.model(0.41)
    commit = registry.commit("another model")

    said = registry.do("register")

    assert "pawl version 2 is in " in said
    assert "(new; candidate)" in said
    assert registry.aliases == {"candidate": "2"}
    assert registry.versions["2"]["pawl.commit"] == commit
    assert registry.versions["2"]["pawl.run"] == registry.runs[1][0]


@pytest.mark.parametrize("verdict", ["fail", "error"])
def test_a_model_that_may_not_ship_is_logged_and_no_version_each_time_that_it_is_asked_for(registry, verdict):
    registry.report(verdict=verdict, allowed=False)

    for _ in range(2):
        assert f"and no version was made: the verdict is {verdict}\n" in registry.do("register")
    registry.do("register", "--exit-code", code=1)
    assert registry.versions == {}
    assert len(registry.runs) == 1


def test_the_report_of_another_model_is_refused(registry):
    registry.report(digest=f"sha256:{'1' * 64}")

    told = registry.do("register", code=2)

    assert "error: the report is not of this model\n  where: reports/report.json\n  fix: run `make report`" in told
    assert registry.runs == []


@pytest.mark.parametrize("told", ['{"digest": "sha256:other"}', None])
def test_what_describes_the_estimator_of_another_model_is_refused(registry, told):
    path = registry.path / "reports/estimator/estimator.json"
    path.unlink()
    if told:
        path.write_text(told)

    assert "fix: run `make run`" in registry.do("register", code=2)
    assert registry.runs == []


def test_it_takes_neither_scikit_learn_nor_lightgbm(copies):
    there = copies()
    code = (
        "import sys\nfrom scripts import register\nregister.main([])\nprint({'sklearn', 'lightgbm'} & set(sys.modules))"
    )

    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=there.path, env=there.environ, check=True, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "set()"
    assert len(there.versions) == 1


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_report_that_changed_is_shown_by_the_same_run_and_version(registry, name):
    registry.do("register")
    (run, _), *_ = registry.runs
    registry.report(verdict="inconclusive")
    with (registry.path / "reports" / name).open("a") as file:
        file.write("changed")

    registry.do("register")

    assert registry.runs == [(run, "FINISHED")]
    assert registry.values("tags", run)["pawl.verdict"] == registry.versions["1"]["pawl.verdict"] == "inconclusive"
    assert registry.files(run)[f"reports/{name}"].endswith(b"changed")
    assert json.loads(registry.files(run)["reports/report.json"])["verdict"] == "inconclusive"


def test_an_older_run_once_more_leaves_the_candidate_to_the_newer(registry):
    old = registry.commit("a model")
    registry.do("register")
    registry.model(0.41)
    registry.commit("another model")
    registry.do("register")
    registry.model(0.5)
    registry.of(old)
    registry.forget()

    said = registry.do("register")

    assert "version 1 " in said
    assert "no alias" in said
    assert registry.aliases == {"candidate": "2"}


def test_an_older_run_does_not_take_back_what_a_revert_made_right_again(registry):
    old = registry.commit("a model")
    registry.do("register")
    registry.model(0.41)
    middle = registry.commit("another model")
    registry.do("register")
    registry.model(0.5)
    newest = registry.commit("Revert another model")
    registry.do("register")
    assert registry.aliases == {"candidate": "1"}

    registry.of(old)
    registry.forget()
    registry.do("register")
    registry.of(middle)
    registry.model(0.41)
    registry.forget()
    registry.do("register")

    assert registry.aliases == {"candidate": "1"}
    assert registry.versions["1"]["pawl.commit"] == newest


def test_the_same_model_of_a_commit_that_was_squashed_is_that_of_the_new_one(registry):
    start = registry.git("rev-parse", "HEAD")
    for lost in (registry.commit("work in progress"), "f" * 40):
        registry.report(commit=lost)
        registry.do("register")
        registry.of(start)
        squashed = registry.commit(f"what was {lost[:7]}")

        said = registry.do("register")

        assert "version 1 " in said
        assert "candidate" in said
        assert registry.versions["1"]["pawl.commit"] == squashed
        start = squashed


def test_a_commit_that_this_clone_does_not_have_is_told(registry):
    registry.report(commit="f" * 40)
    registry.do("register")
    registry.model(0.41)
    registry.commit("another model")

    told = registry.do("register", code=2)

    assert "error: which commit is older cannot be told: fffffff is not in this checkout" in told
    assert "git fetch" in told
    assert registry.aliases == {"candidate": "1"}


def test_a_process_of_its_own_says_one_line_and_nothing_on_standard_error(copies):
    there = copies()
    (there.path / "mlflow.db").unlink()  # as for a user who starts

    done = subprocess.run([sys.executable, "-m", "scripts.register"], cwd=there.path, env=there.environ, check=True, capture_output=True, text=True)  # fmt: skip

    assert re.fullmatch(r"pawl version 1 is in mlflow\.db \(new; candidate\): sha256:\w{12}\n", done.stdout)
    assert done.stderr == ""


# Killed anywhere, and many at once


def boundaries(noted):
    """Return where a process may die, by the calls of one that lived: after each, which is before the next, and around those of another thread."""
    calls = [line.rsplit(" ", 1) for line in noted.read_text().splitlines()]
    found = [[name, int(number), "after"] for name, number in calls]
    return [[*found[0][:2], "before"], *found] + [[*call[:2], when] for call in found if call[0] == "log_artifacts" for when in ("before", "half", "late")]  # fmt: skip


def alike(files):
    """Return the files by which two runs, or two models, are compared."""
    return {name: content if name not in OWN else bool(content) for name, content in files.items()}


def wrong(registry, model):
    """Return what is wrong with the aliases: each must name a version whose files are all there, and whole."""
    return {
        alias: version
        for alias, version in registry.aliases.items()
        if version not in registry.versions or alike(registry.model_files(version)) != model
    }


def killed(warm, make, points, model):
    """Register with a process that dies at a point, and once more with one that lives, at each of the points; return the registries."""
    made = []
    for pair in (points[place : place + 2] for place in range(0, len(points), 2)):
        here = [make() for _ in pair]
        died = warm(*(each.job("register", die=point) for each, point in zip(here, pair, strict=True)))
        assert [code for code, _ in died] == [-9] * len(pair), (pair, died)
        assert [wrong(each, model) for each in here] == [{}] * len(pair), pair
        again = warm(*(each.job("register") for each in here))
        assert [code for code, _ in again] == [0] * len(pair), (pair, again)
        made += zip(pair, here, strict=True)
    return made


def left(registry):
    """Return what there is in the end: as after one registration that nobody disturbed."""
    (run, status), *others = registry.runs
    version, *more = registry.versions
    files = alike(registry.files(run)), alike(registry.model_files(version))
    links = registry.versions[version]["pawl.run"] == run
    return status, others, version, more, registry.aliases, links, len(registry.values("latest_metrics", run)), files


@pytest.fixture
def undisturbed(copies, warm, tmp_path):
    """A registration that lived, with the calls that it made."""
    made = copies()
    ((code, said),) = warm(made.job("register", noted=str(tmp_path / "noted")))
    assert code == 0, said
    return made


def test_killed_anywhere_and_run_again_it_is_one_run_and_one_version_with_every_file(
    undisturbed, copies, warm, tmp_path
):
    expected, points = left(undisturbed), boundaries(tmp_path / "noted")
    assert expected[:6] == ("FINISHED", [], "1", [], {"candidate": "1"}, True)
    assert len(points) > 20

    for point, registry in killed(warm, copies, points, expected[-1][1]):
        assert left(registry) == expected, point


@pytest.mark.e2e  # long: a process for each boundary
def test_killed_anywhere_while_a_report_that_changed_is_sent_the_next_run_sends_it(undisturbed, copies, warm, tmp_path):
    undisturbed.report(verdict="inconclusive")
    model = alike(undisturbed.model_files("1"))
    lived, noted = copies(undisturbed), tmp_path / "again"
    ((code, said),) = warm(lived.job("register", noted=str(noted)))
    assert code == 0, said
    expected = left(lived)

    for point, registry in killed(warm, lambda: copies(undisturbed), boundaries(noted), model):
        assert left(registry) == expected, point
        assert registry.values("tags", registry.runs[0][0])["pawl.verdict"] == "inconclusive"
        assert json.loads(registry.files(registry.runs[0][0])["reports/report.json"])["verdict"] == "inconclusive"


@pytest.mark.e2e  # long: a process for each boundary
def test_killed_while_a_server_is_told_it_is_the_same(undisturbed, copies, warm, server):
    names = iter(range(100))
    points = [
        ["create_run", 1, "after"], ["log_artifact", 5, "before"], ["log_artifact", 60, "after"], ["log_outputs", 1, "after"],
        ["create_model_version", 1, "after"], ["set_registered_model_alias", 1, "before"],
    ]  # fmt: skip
    expected = left(undisturbed)

    for point, registry in killed(warm, lambda: copies(on=server, name=f"killed-{next(names)}"), points, expected[-1][1]):  # fmt: skip
        assert left(registry) == expected, point


def test_of_two_versions_that_were_made_at_the_same_moment_the_lower_stays(registry, monkeypatch):
    real = MlflowClient.create_model_version

    def others_first(client, *given, **more):
        monkeypatch.setattr(MlflowClient, "create_model_version", real)
        real(client, *given, **more)
        return real(client, *given, **more)

    monkeypatch.setattr(MlflowClient, "create_model_version", others_first)

    said = registry.do("register")

    assert "pawl version 1 is in " in said
    assert list(registry.versions) == ["1"]
    assert registry.aliases == {"candidate": "1"}


def test_a_run_that_another_finished_in_the_moment_in_which_it_is_put_away_stays(registry, monkeypatch):
    ended, deleted = MlflowClient.set_terminated, MlflowClient.delete_run

    def another_is_at_it(client, run, *given, **more):
        monkeypatch.setattr(MlflowClient, "set_terminated", ended)
        mine = client.get_run(run)
        client.create_run(mine.info.experiment_id, tags={key: mine.data.tags[key] for key in ("pawl.commit", "pawl.lock")})  # fmt: skip
        ended(client, run, *given, **more)

    def and_has_finished(client, run):
        ended(client, run)
        deleted(client, run)

    monkeypatch.setattr(MlflowClient, "set_terminated", another_is_at_it)
    monkeypatch.setattr(MlflowClient, "delete_run", and_has_finished)

    registry.do("register")

    assert [status for _, status in registry.runs] == ["FINISHED", "FINISHED"]


def test_a_model_that_another_began_in_the_same_run_and_left_is_not_taken_for_the_run_s(registry):
    registry.do("track")
    with tracking.store() as store:
        (run,) = store.client.search_runs([store.experiment(registry.name)])
        whole = tracking.model_of(store, run.info.run_id).model_id
        store.client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)

    registry.do("register")

    assert registry.rows("select source from model_versions") == [(f"models:/{whole}",)]
    assert "data/bundle/pipeline.skops" in registry.model_files("1")


@pytest.fixture
def shared(registry, monkeypatch, tmp_path):
    """A project whose store is a database that others write, too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry.store}/mlflow.db")
    monkeypatch.setenv("PAWL_ARTIFACT_LOCATION", str(tmp_path / "artifacts"))
    monkeypatch.setattr(tracking.time, "sleep", lambda _: None)
    return registry


@pytest.mark.parametrize(("code", "calls"), [("BAD_REQUEST", 3), ("PERMISSION_DENIED", 1), ("INTERNAL_ERROR", 1)])
def test_only_what_another_writer_may_have_caused_is_tried_again(shared, monkeypatch, code, calls):
    real, made = MlflowClient.create_model_version, []

    def contested(client, *given, **more):
        made.append(given)
        if len(made) < 3:
            raise MlflowException("another was first", error_code=codes.ErrorCode.Value(code))
        return real(client, *given, **more)

    monkeypatch.setattr(MlflowClient, "create_model_version", contested)

    shared.do("register", code=0 if calls == 3 else 3)

    assert len(made) == calls
    assert len(shared.versions) == (calls == 3)


@pytest.mark.parametrize(("store", "calls"), [("shared", 3), ("registry", 1)])
def test_what_is_refused_each_time_is_told(request, monkeypatch, store, calls):
    project, made = request.getfixturevalue(store), []

    def refused(*given, **_):
        made.append(given)
        raise MlflowException("no such thing", error_code=codes.INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(MlflowClient, "create_model_version", refused)

    assert "error: MLflow does not do it: MlflowException: no such thing" in project.do("register", code=3)
    assert len(made) == calls


def test_four_at_once_on_a_server_make_one_version(copies, warm, server):
    here = [copies(on=server, name="at-once") for _ in range(4)]

    ended = warm(*(each.job("register") for each in here))

    assert {code for code, _ in ended} == {0}, ended
    assert sum("(new;" in said for _, said in ended) <= 1
    assert len(here[0].versions) == 1
    assert here[0].aliases == {"candidate": next(iter(here[0].versions))}
    assert {status for _, status in here[0].runs} == {"FINISHED"}


def test_four_at_once_on_one_embedded_store_make_one_run_and_one_version(copies, warm):
    here = copies()

    ended = warm(*(here.job("register") for _ in range(4)))

    assert [code for code, _ in ended] == [0] * 4, ended
    assert sum("(new; candidate)" in said for _, said in ended) == 1
    assert [status for _, status in here.runs] == ["FINISHED"]
    assert list(here.versions) == ["1"]
    assert here.aliases == {"candidate": "1"}


def test_a_store_that_loses_a_part_of_a_file_gets_no_version(registry, monkeypatch):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    real = LocalArtifactRepository.log_artifacts

    def losing(self, folder):
        real(self, folder)
        if (bundle := Path(self.artifact_dir, "data/bundle/pipeline.skops")).exists():
            os.truncate(bundle, 100)

    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", losing)

    told = registry.do("register", code=3)

    assert "files did not arrive whole, data/bundle/pipeline.skops for one" in told
    assert registry.versions == {}
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", real)
    registry.do("register")
    assert registry.aliases == {"candidate": "1"}
    assert registry.model_files("1")["data/bundle/pipeline.skops"] == (registry.path / "models/bundle/pipeline.skops").read_bytes()  # fmt: skip


def test_versions_are_listed_before_one_is_champion(registry):
    registry.do("register")

    assert "candidate" in registry.do("models")
