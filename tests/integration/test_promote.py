"""Which version is champion: never an older one, never one that was taken back, and always one."""

import json
import re

import pytest
import yaml
from mlflow import MlflowClient

from pawl import registry as rules
from pawl import tracking
from pawl.tracking import Store
from scripts import ledger, register

CHAMPION, PREVIOUS = "champion", "pawl.previous_champion"


@pytest.fixture
def registry(here, three):
    """A project with three versions, and no champion."""
    return here(three)


def promote(registry, version, *words, code=0, **more):
    """Promote a version from its own commit."""
    registry.of(registry.commits[version])
    return registry.do("promote", "--version", version, *words, code=code, **more)


def champion(registry):
    return registry.aliases.get(CHAMPION)


def test_promoting_names_the_champion_and_remembers_the_one_before(registry):
    said = [promote(registry, version, "--image", f"model@sha256:{version}") for version in "123"]

    assert said == [
        f"✅ pawl version {version} is champion (before: {before}).\n"
        for version, before in (("1", "none"), ("2", "1"), ("3", "2"))
    ]
    assert registry.aliases == {"candidate": "3", "champion": "3"}
    tags = registry.versions["3"]
    assert tags[PREVIOUS] == "2"
    assert tags["pawl.images"] == "model@sha256:3"
    assert tags["pawl.released"] == registry.commits["3"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", tags["pawl.promotions"])


def test_who_validated_it_is_noted(registry):
    github = {"GITHUB_RUN_ID": "7", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "octo/model", "GITHUB_ACTOR": "octocat"}  # fmt: skip

    promote(registry, "1", environ={"GITHUB_ACTOR": "ada"})
    promote(registry, "2", environ=github)

    assert registry.versions["1"]["pawl.validated_by"] == "ada"
    assert registry.versions["2"]["pawl.validated_by"] == "https://github.com/octo/model/actions/runs/7 (octocat)"


def test_promoting_again_changes_nothing_but_the_time(registry):
    promote(registry, "1")
    promote(registry, "2")
    before = registry.versions

    said = promote(registry, "2")

    assert said == "✅ pawl version 2 is champion (it was before).\n"
    after = registry.versions
    for each in (before, after):
        del each["2"]["pawl.promotions"]
    assert after == before


def test_without_a_number_it_is_the_model_that_lies_here(registry):
    assert "version 3 is champion" in registry.do("promote")

    registry.model(0.77)

    assert "error: the model in models/bundle is no version" in registry.do("promote", code=2)
    assert champion(registry) == "3"


@pytest.mark.parametrize("version", ["9", "latest", "1; drop", "-1"])
def test_a_version_that_does_not_exist_is_refused(registry, version):
    assert f"error: there is no version {version} of pawl" in registry.do("promote", f"--version={version}", code=2)
    assert champion(registry) is None


# Order


def test_an_older_commit_does_not_take_champion_back(registry):
    promote(registry, "2")

    told = promote(registry, "1", code=2)

    newer, older = registry.commits["2"][:7], registry.commits["1"][:7]
    assert f"error: version 2 was released from {newer}, and {older} does not come after that" in told
    assert "fix: nothing to do where a later release has overtaken this one" in told
    assert champion(registry) == "2"
    assert "pawl.released" not in registry.versions["1"]


def test_a_check_refuses_what_a_promotion_would_and_writes_nothing(registry):
    promote(registry, "2")
    before = registry.versions

    assert "does not come after that" in registry.do("promote", "--version=1", "--check", code=2)
    assert registry.do("promote", "--version=3", "--check") == "pawl version 3 may be promoted.\n"
    assert (registry.versions, champion(registry)) == (before, "2")

    promote(registry, "3")
    registry.do("promote", "--rollback", "--reason=wrong")
    assert "was taken back" in registry.do("promote", "--version=3", "--check", code=2)


def test_a_branch_that_does_not_contain_the_champion_is_refused(registry):
    promote(registry, "2")
    registry.git("checkout", "--quiet", "--force", "-b", "aside", registry.commits["1"])
    registry.model(0.77)
    aside = registry.commit("a model aside")
    registry.do("register")

    told = registry.do("promote", "--version", "4", code=2)

    assert f"{aside[:7]} does not come after that" in told
    assert champion(registry) == "2"


def test_a_commit_that_this_clone_does_not_have_is_told(registry):
    promote(registry, "1")
    registry.tag("1", "pawl.released", "f" * 40)

    told = promote(registry, "2", code=2)

    assert "error: which commit is older cannot be told: fffffff is not in this checkout" in told
    assert champion(registry) == "1"


def test_a_revert_makes_an_earlier_version_champion_again(registry):
    promote(registry, "1")
    promote(registry, "2")
    registry.model(0.41)
    newest = registry.commit("Revert model 2")
    registry.do("register")

    said = registry.do("promote")

    assert said == "✅ pawl version 1 is champion (before: 2).\n"
    assert registry.versions["1"]["pawl.released"] == newest
    assert registry.versions["1"][PREVIOUS] == "2"


def test_an_old_version_by_hand_is_released_from_its_own_commit_and_does_not_overtake(released):
    released.commit("nothing of the model")

    told = released.do("promote", "--version", "1", code=2)

    assert f"and {released.commits['1'][:7]} does not come after that" in told
    assert champion(released) == "3"
    assert released.versions["1"]["pawl.commit"] == released.commits["1"]


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_newer_release_that_comes_in_between_stays_champion(registry, monkeypatch, call):
    promote(registry, "1")
    real = getattr(MlflowClient, call)

    def others_first(client, *given):
        monkeypatch.setattr(MlflowClient, call, real)
        rules.promote(Store(client, "", embedded=True), "pawl", "3", registry.commits["3"], {}, register.before)
        return real(client, *given)

    monkeypatch.setattr(MlflowClient, call, others_first)

    told = promote(registry, "2", code=2)

    assert f"error: version 3 was released from {registry.commits['3'][:7]}" in told
    assert champion(registry) == "3"


def test_an_older_release_that_was_ended_before_it_gave_way_does_so_the_next_time(registry):
    promote(registry, "2")
    promote(registry, "3")
    with tracking.store() as store:
        store.client.set_registered_model_alias("pawl", "champion", "1")  # of a release from the oldest commit

    told = promote(registry, "1", code=2)

    assert f"error: version 3 was released from {registry.commits['3'][:7]}" in told
    assert champion(registry) == "3"


# Verdicts


@pytest.mark.parametrize("verdict", ["fail", "error", "skipped", ""])
def test_a_verdict_that_does_not_let_it_is_refused(registry, verdict):
    registry.tag("1", "pawl.verdict", verdict)

    told = promote(registry, "1", code=2)

    assert f"error: version 1 may not be promoted: its verdict is {verdict or 'unknown'}" in told
    assert champion(registry) is None


def test_inconclusive_is_a_warning_and_a_refusal_where_gates_are_strict(registry):
    registry.tag("1", "pawl.verdict", "inconclusive")
    gates = yaml.safe_load((registry.path / "gates.yaml").read_text())

    (registry.path / "gates.yaml").write_text(yaml.safe_dump(gates | {"strict": True}))
    told = registry.do("promote", "--version", "1", code=2)
    (registry.path / "gates.yaml").write_text(yaml.safe_dump(gates))
    said = registry.do("promote", "--version", "1")

    assert "may not be promoted: its verdict is inconclusive" in told
    assert said.endswith("Warning: its verdict is inconclusive: the test rows cannot tell.\n")
    assert champion(registry) == "1"


def test_a_rule_that_was_waived_stands_in_the_version(registry, warm):
    gates = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.99}}}
    waiver = {"rule": "roc_auc", "reason": "a new table", "until": "2999-12-31"}
    (registry.path / "gates.yaml").write_text(yaml.safe_dump(gates | {"waivers": [waiver]}))
    ((code, said),) = warm(registry.job("report"))
    assert code == 0, said

    registry.do("register", environ={"GITHUB_OUTPUT": "/dev/null"})

    assert registry.versions["3"]["pawl.waived"] == "roc_auc: waived until 2999-12-31: a new table"


# Back


@pytest.fixture
def released(registry):
    """Three versions that were champion, one after the other."""
    for version in "123":
        promote(registry, version)
    return registry


def test_a_rollback_makes_the_version_before_champion_and_rejects_what_was(released):
    said = released.do("promote", "--rollback", "--reason", "wrong for\nnew customers", environ={"GITHUB_ACTOR": "ada"})

    assert "↩ pawl version 2 is champion again; version 3 is rejected until `--clear 3`" in said
    assert champion(released) == "2"
    found = released.versions
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ wrong for new customers", found["3"]["pawl.rejected"])
    assert found["2"]["pawl.validated_by"] == "ada"
    assert not any("pawl.rejected" in found[version] for version in "12")


def test_what_was_rejected_comes_back_when_a_person_clears_it(released):
    released.do("promote", "--rollback", "--reason", "bad")
    released.of(released.commits["3"])
    released.forget()

    told = [released.do("register", code=2), released.do("promote", code=2), released.do("promote", "--version", "3", code=2)]  # fmt: skip

    assert all("error: this model is version 3, which was taken back: " in each for each in told)
    assert all("python -m scripts.promote --clear 3" in each for each in told)
    assert champion(released) == "2"

    assert released.do("promote", "--clear", "3") == "pawl version 3 may be promoted again.\n"
    assert "version 3 is not rejected" in released.do("promote", "--clear", "3", code=2)
    assert "registered before" in released.do("register")
    assert "version 3 is champion (before: 2)" in released.do("promote")


def test_where_it_was_registered_what_was_rejected_is_refused_too(released):
    released.do("register")
    released.do("promote", "--rollback", "--reason", "bad")

    told = released.do("register", code=2)

    assert "which was taken back" in told


def test_clearing_a_version_does_not_release_it(released):
    released.do("promote", "--rollback", "--reason", "bad")
    released.do("promote", "--clear", "3")

    assert promote(released, "2") == "✅ pawl version 2 is champion (it was before).\n"


@pytest.mark.parametrize("words", [(), ("--to", "1")])
def test_a_rollback_with_nothing_before_is_refused(registry, words):
    back = ("--rollback", "--reason", "bad", *words)

    assert "error: there is no champion to go back from" in registry.do("promote", *back, code=2)

    promote(registry, "1")

    assert "error: there is no version to go back to from version 1" in registry.do("promote", *back, code=2)
    assert champion(registry) == "1"
    assert "pawl.rejected" not in registry.versions["1"]


def test_a_second_rollback_goes_one_further(released):
    for _ in range(2):
        released.do("promote", "--rollback", "--reason", "bad")

    assert champion(released) == "1"
    assert [version for version, tags in released.versions.items() if "pawl.rejected" in tags] == ["2", "3"]


def test_a_rollback_passes_over_what_was_rejected(released):
    released.do("promote", "--rollback", "2" if champion(released) == "2" else "3", "--reason", "bad")
    released.do("promote", "--clear", "3")
    released.tag("2", "pawl.previous_champion", "3")
    released.tag("3", "pawl.rejected", "once more")

    assert "version 1 is champion again" in released.do("promote", "--rollback", "2", "--reason", "bad too")


def test_a_rollback_that_names_what_it_takes_back_happens_once(released):
    released.do("promote", "--rollback", "3", "--reason", "bad")

    said = released.do("promote", "--rollback", "3", "--reason", "bad", code=2)

    assert "version 3 is not the champion, version 2 is" in said
    assert released.aliases["champion"] == "2"


def test_a_rollback_goes_to_the_version_that_is_named_and_nothing_in_between_comes_back_by_itself(released):
    said = released.do("promote", "--rollback", "--reason", "bad", "--to", "1")
    assert "version 1 is champion again" in said

    assert promote(released, "1") == "✅ pawl version 1 is champion (it was before).\n"

    assert champion(released) == "1"
    assert "pawl.rejected" not in released.versions["2"]


def test_a_rollback_goes_to_a_version_that_was_never_champion(registry):
    promote(registry, "1")
    promote(registry, "3")

    said = registry.do("promote", "--rollback", "--reason", "bad", "--to", "2")

    assert "version 2 is champion again; version 3 is rejected" in said
    assert champion(registry) == "2"
    assert "does not come after that" in promote(registry, "1", code=2)


def test_a_rollback_to_a_version_that_was_rejected_or_is_not_there_is_refused(released):
    released.do("promote", "--rollback", "--reason", "bad")

    assert "which was taken back" in released.do("promote", "--rollback", "--reason", "x", "--to", "3", code=2)
    assert "there is no version 9" in released.do("promote", "--rollback", "--reason", "x", "--to", "9", code=2)
    assert champion(released) == "2"
    assert "pawl.rejected" not in released.versions["2"]


def test_after_a_rollback_a_newer_model_is_promoted_as_ever(released):
    released.do("promote", "--rollback", "--reason", "bad")
    released.of(released.commits["3"])
    released.model(0.77)
    released.commit("a better model")
    released.do("register")

    assert released.do("promote") == "✅ pawl version 4 is champion (before: 2).\n"


@pytest.mark.parametrize("words", [["--rollback"], ["--rollback", "--reason", " "], ["--to", "1"], ["--min", "0.5"], ["--version", "1", "--clear", "1"]])  # fmt: skip
def test_words_that_do_not_go_together_are_refused(registry, words):
    with pytest.raises(SystemExit, match="2"):
        registry.do("promote", *words)


@pytest.mark.parametrize(
    "words", [("--version", "2"), ("--rollback", "--reason", "bad")], ids=["a promotion", "a rollback"]
)
def test_killed_anywhere_there_is_a_champion_and_the_next_one_ends_it(registry, copies, warm, tmp_path, words):
    promote(registry, "1")
    if "--rollback" in words:
        promote(registry, "2")
    registry.of(registry.commits["2"])
    lived = copies(registry)
    ((code, said),) = warm(lived.job("promote", *words, noted=str(tmp_path / "noted")))
    assert code == 0, said
    calls = [line.split() for line in (tmp_path / "noted").read_text().splitlines()]
    assert calls[-1][0] == "set_registered_model_alias"

    for name, number in calls:
        there = copies(registry)
        ((code, _),) = warm(there.job("promote", *words, die=[name, int(number), "before"]))
        assert code == -9
        assert champion(there) in {"1", "2"}
        ((code, said),) = warm(there.job("promote", *words))
        assert code == 0, (name, said)
        assert state(there) == state(lived), (name, number)


def state(registry):
    """Return aliases and tags, without times."""
    words = {version: {key: re.sub(r"\d{4}-\d\d-\S+", "", value).strip() for key, value in tags.items()} for version, tags in registry.versions.items()}  # fmt: skip
    return registry.aliases, words


# The best of an experiment


def tracked(registry, threshold, **metrics):
    """Log a run whose model has these metrics."""
    path = registry.path / "reports/metrics.json"
    told = json.loads(path.read_text())
    for name, value in metrics.items():
        split, metric = name.split("_", 1)
        told[split][metric]["value"] = value
    path.unlink()
    path.write_text(json.dumps(told))
    digest = registry.model(threshold)
    registry.commit(f"model {threshold}")
    registry.do("track")
    return digest


@pytest.fixture
def experiment(here):
    """Three runs, of which the second is best on validation rows, and the first on test rows."""
    made = here()
    made.digests = [
        tracked(made, 0.41, valid_roc_auc=0.90, test_roc_auc=0.92, valid_log_loss=0.2, test_log_loss=0.2),
        tracked(made, 0.42, valid_roc_auc=0.95, test_roc_auc=0.91, valid_log_loss=0.3, test_log_loss=0.3),
        tracked(made, 0.43, valid_roc_auc=0.80, test_roc_auc=0.80, valid_log_loss=0.4, test_log_loss=0.4),
    ]
    return made


@pytest.mark.parametrize(("metric", "least", "chosen"), [("roc_auc", "0.85", 1), ("log_loss", "0.25", 0)])
def test_the_best_is_chosen_on_validation_rows(experiment, metric, least, chosen):
    said = experiment.do("promote", "--best", metric, "--min", least)

    assert "✅ pawl version 1 is champion (before: none)." in said
    found = experiment.versions
    assert list(found) == ["1"]
    assert found["1"]["pawl.digest"] == experiment.digests[chosen]
    assert found["1"]["pawl.run"] == experiment.runs[chosen][0]
    assert set(experiment.model_files("1")) >= {"MLmodel", "data/bundle/manifest.json"}


@pytest.mark.parametrize(("metric", "least", "told"), [("roc_auc", "0.915", "has roc_auc 0.9100 on test rows: not 0.915"), ("log_loss", "0.1", "has log_loss 0.2000 on test rows: not 0.1"), ("mae", "1", "--best mae is not a known name")])  # fmt: skip
def test_the_best_is_not_promoted_where_it_is_not_good_enough(experiment, metric, least, told):
    assert told in experiment.do("promote", "--best", metric, "--min", least, code=2)
    assert experiment.versions == {}


def test_the_best_is_not_promoted_where_its_gates_do_not_let_it(experiment):
    experiment.report(verdict="fail")
    tracked(experiment, 0.44, valid_roc_auc=0.99, test_roc_auc=0.99)

    told = experiment.do("promote", "--best", "roc_auc", code=2)

    assert "and its verdict is fail" in told
    assert experiment.versions == {}


def test_the_best_of_other_test_rows_is_not_promoted(experiment):
    experiment.report(rows="f" * 64)

    told = experiment.do("promote", "--best", "roc_auc", code=2)

    assert "others than those of the report here (fffffffffffffffffff)" in told
    assert experiment.versions == {}


# The list


def test_without_a_version_the_list_says_how_to_make_one(here):
    made = here()

    assert made.do("models").endswith(": `make run` registers one\n")
    assert json.loads(made.do("models", "--json")) == []


def test_the_list_shows_verdict_commit_aliases_and_what_was_taken_back(released):
    released.do("promote", "--rollback", "--reason", "wrong for many")

    said, found = released.do("models"), json.loads(released.do("models", "--json"))

    assert [each["version"] for each in found] == ["3", "2", "1"]
    assert [each["aliases"] for each in found] == [[], ["champion"], []]
    assert [each["commit"] for each in found] == [released.commits[version] for version in "321"]
    lines = said.splitlines()
    assert re.match(rf" +3  {released.commits['3'][:7]}  ✅ pass +- +sha256:", lines[2])
    assert re.search(r"\n +rejected \S+Z wrong for many", said)
    assert re.match(r" +champion \S+Z to \S+Z$", "".join(line for line in lines[3:5] if "champion" in line))
    assert re.search(rf" +2  {released.commits['2'][:7]}  ✅ pass +champion +sha256:", said)
    assert re.search(r"\n +champion \S+Z to now\n", said)
    assert all(len(line) <= 100 for line in lines[1:])


def test_of_versions_promoted_in_one_second_the_champion_came_last(registry, monkeypatch):
    monkeypatch.setattr(rules, "now", lambda: "2026-01-01T00:00:00Z")
    for version in "123":
        promote(registry, version)
    registry.do("promote", "--rollback", "--reason", "wrong for many")

    third, second, first = json.loads(registry.do("models", "--json"))

    assert second["champion"][-1][1] == ""
    assert all(until for each in (third, first) for _, until in each["champion"])


def test_the_list_shows_since_when_each_was_served_where_and_by_which_image(released, monkeypatch):
    released.git("remote", "remove", "origin")
    times = {version: f"2026-01-0{version}T00:00:00Z" for version in "12"}
    for version in "12":
        monkeypatch.setattr(ledger, "utc", lambda made=times[version]: made)
        digest = released.versions[version]["pawl.digest"]
        released.do("register", "--image", f"model@sha256:{version}", environ={"GITHUB_OUTPUT": "/dev/null"})
        released.do("ledger", "release", "--version", version, "--digest", digest, "--image", f"model@sha256:{version}", "--environment", "production")  # fmt: skip

    said, (_, second, first) = released.do("models"), json.loads(released.do("models", "--json"))

    assert first["champion"] == [[times["1"], times["2"]]]
    assert second["champion"] == [[times["2"], ""]]
    assert (first["environment"], second["environment"]) == ("", "production")
    assert "runs in production" in said
    assert f"champion {times['1']} to {times['2']}\n" in said
    assert f"champion {times['2']} to now\n" in said
