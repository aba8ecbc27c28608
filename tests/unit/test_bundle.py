import hashlib
import json
import os
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from pawl import bundle, frames
from pawl.problem import Problem
from pawl.serving import predictor
from task.features import build_features
from task.model import build_model
from task.params import FeaturizeParams

DTYPES = {"age": "integer", "colour": "category"}
RECORDS = [{"age": number * 7 % 50, "colour": [None, "red", "green", "blue"][number % 4]} for number in range(200)]
FILES = [bundle.MANIFEST, bundle.PIPELINE, bundle.GOLDEN, bundle.TRAINED_ON, bundle.ENCODER, bundle.MODEL]
LABELS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}


class Canary(BaseEstimator):
    """Leaves a file behind when its code runs at loading."""

    def __init__(self, path=None):
        self.path = path

    def __setstate__(self, state):
        Path(state["path"]).write_text("ran")
        self.__dict__.update(state)


class Forgetful(ClassifierMixin, BaseEstimator):
    """Predicts something else once stored."""

    classes_ = np.array([0, 1])
    shift = 0.5

    def fit(self, *_):
        self.fitted_, self.shift = True, 0.75
        return self

    def __getstate__(self):
        return {"fitted_": True}

    def predict_proba(self, X):
        return np.tile([1 - self.shift, self.shift], (len(X), 1))


@cache
def fitted(task="binary", model=None):
    frame = frames.from_records(RECORDS, DTYPES)
    number = frame["age"].to_numpy() + 10 * (frame["colour"] == "red")
    y = number if task == "regression" else (number > 25).astype(int) + (number > 40) * (task == "multiclass")
    estimator = LGBMRegressor if task == "regression" else LGBMClassifier
    model = model or build_model(estimator, {"n_estimators": 5, "min_child_samples": 5, "random_state": 0})
    pipeline = Pipeline([("features", build_features(DTYPES, FeaturizeParams(min_category_rows=1))), ("model", model)])
    return pipeline.fit(frame, y)


def save(folder, pipeline=None, task="binary", threshold=0.5):
    return bundle.save(
        folder,
        pipeline=pipeline or fitted(task),
        manifest={"task": task, "labels": LABELS[task], "threshold": threshold, "features": DTYPES},
        golden=[*RECORDS[:9], {"age": None, "colour": "never seen"}],
        trained_on=np.array([3, 1, 2], dtype=np.uint64),
    )


def edit(path, change, *, seal=True):
    """Change a manifest; with `seal` its digest is made right again, as an attacker would."""
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        content = {key: value for key, value in manifest.items() if key != "digest"}
        manifest["digest"] = "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    save(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def folder(made, tmp_path):
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_same_pipeline_is_the_same_bytes_in_another_process():
    code = f"import runpy, sys; made = runpy.run_path({__file__!r}); "
    code += "sys.stdout.buffer.write(made['bundle'].dump(made['fitted']()))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # here it is another one

    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)

    assert done.stdout == bundle.dump(fitted())


@pytest.mark.parametrize("task", LABELS)
def test_what_is_loaded_is_stored_as_the_same_bytes_and_predicts_the_same(task, tmp_path):
    pipeline = fitted(task)

    loaded = save(tmp_path, pipeline, task)

    frame = frames.from_records(RECORDS, DTYPES)
    for got, expected in zip(loaded.predict(frame), bundle.predict(pipeline, task, 0.5, frame), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert bundle.dump(loaded.pipeline) == (tmp_path / bundle.PIPELINE).read_bytes()
    assert loaded.trained_on.tolist() == [1, 2, 3]


def test_its_identity_is_its_content(tmp_path):
    digests = [save(tmp_path / "a").digest, save(tmp_path / "b").digest, save(tmp_path / "c", threshold=0.4).digest]

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("bit", [0x01, 0x80])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(folder, name, bit):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= bit
    (folder / name).write_bytes(content)

    with pytest.raises(Problem) as caught:
        bundle.load(folder)

    assert caught.value.where == str(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_or_gone_is_refused(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    if name == bundle.MANIFEST:  # its last byte ends the line
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(Problem, match=f"{name} is not the file|cannot be read"):
        bundle.load(folder)

    (folder / name).unlink()
    with pytest.raises(Problem, match="not a complete bundle"):
        bundle.load(folder)


def damages(content):
    """Return {what: content} of a model that is cut off, flipped, zeroed, emptied, or doubled."""
    draw = random.Random(0)
    cuts = {f"cut at {at}": content[:at] for at in range(0, len(content), len(content) // 40 + 1)}
    bits = [(draw.randrange(len(content)), 1 << draw.randrange(8)) for _ in range(200)]
    flips = {f"{at} ^ {bit}": content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :] for at, bit in bits}
    return {**cuts, **flips, "zeros": bytes(len(content)), "empty": b"", "twice": 2 * content}


def test_a_damaged_model_is_told_by_both_digests_and_never_loaded(folder, made, monkeypatch):
    monkeypatch.setattr(predictor, "Compiled", None)  # a call would be a TypeError
    right = made[bundle.MODEL]
    for what, content in damages(right).items():
        (folder / bundle.MODEL).write_bytes(content)

        with pytest.raises(Problem, match=r"model\.txt is not the file that was written") as caught:
            predictor.load(folder)

        got, wanted = content[: len(right) + 1], right  # no more is read of a longer one
        told = [f"{len(each)} bytes, SHA-256 {hashlib.sha256(each).hexdigest()}" for each in (got, wanted)]
        assert ", expected ".join(told) in caught.value.what, what


CHANGES = {
    "a threshold": (lambda manifest: manifest.update(threshold=0.1), False, "is not the one that was written"),
    "a new key": (lambda manifest: manifest.update(note="x"), False, "is not the one that was written"),
    "another format": (lambda manifest: manifest.update(format=1), True, "bundle format 1 is not 2"),
    "no format": (lambda manifest: manifest.pop("format"), True, "bundle format None is not 2"),
    "no digest": (lambda manifest: manifest.pop("digest"), False, "cannot be read"),
    "no files": (lambda manifest: manifest.pop("files"), True, "cannot be read"),
    "a list of files": (lambda manifest: manifest.update(files=FILES[1:]), True, "cannot be read"),
    "a file less of the compiled": (lambda manifest: manifest["files"].pop(bundle.MODEL), True, "the manifest lists"),
    "not compiled, with its files": (lambda manifest: manifest.update(not_compiled="no"), True, "the manifest lists"),
    "no word of compilation": (lambda manifest: manifest.pop("not_compiled"), True, "cannot be read"),
    "a negative size": (lambda manifest: manifest["files"][bundle.GOLDEN].update(size=-1), True, "golden.json is not the file"),
    "a file more": (lambda manifest: manifest["files"].update(x={}), True, "the manifest lists"),
    "a file less": (lambda manifest: manifest["files"].pop(bundle.GOLDEN), True, "the manifest lists"),
    "a path upwards": (
        lambda manifest: manifest["files"].update({"../x": manifest["files"].pop(bundle.PIPELINE)}), True, "manifest lists",
    ),
    "an absolute path": (
        lambda manifest: manifest["files"].update({"/etc/passwd": manifest["files"].pop(bundle.PIPELINE)}), True, "lists",
    ),
    "no size": (lambda manifest: manifest["files"][bundle.GOLDEN].pop("size"), True, "cannot be read"),
    "another SHA-256": (
        lambda manifest: manifest["files"][bundle.GOLDEN].update(sha256="0" * 64), True, "golden.json is not the file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "seal", "message"), CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_was_edited_is_refused(folder, change, seal, message):
    edit(folder / bundle.MANIFEST, change, seal=seal)

    with pytest.raises(Problem, match=message):
        bundle.load(folder)


@pytest.mark.parametrize("text", ["[]", "{", "", "null", '"\\ud800"', '{"format": 2, "digest": []}', "[" * 100_000])
def test_what_is_no_manifest_is_refused(folder, text):
    (folder / bundle.MANIFEST).write_text(text)

    with pytest.raises(Problem):
        bundle.load(folder)


def test_what_is_read_is_what_the_manifest_lists_and_nothing_is_loaded(folder, made, monkeypatch):
    monkeypatch.setattr(bundle, "restore", None)
    (folder / "model.pkl").write_bytes(b"never read")
    (folder / "code").mkdir()
    (folder / bundle.MODEL).rename(folder / "elsewhere")
    (folder / bundle.MODEL).symlink_to("elsewhere")  # as volumes of Kubernetes are

    manifest, files = bundle.read(folder)

    assert files == {name: content for name, content in made.items() if name != bundle.MANIFEST}
    assert manifest == json.loads(made[bundle.MANIFEST])


def test_a_link_to_another_file_is_refused_without_its_content(folder):
    secret = folder / "secret"
    secret.write_text("hidden " * 100_000)
    (folder / bundle.MODEL).unlink()
    (folder / bundle.MODEL).symlink_to(secret)

    with pytest.raises(Problem, match=r"model\.txt is not the file that was written") as caught:
        bundle.read(folder)

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_a_problem(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()

    with pytest.raises(Problem, match="the bundle cannot be read: Is a directory") as caught:
        bundle.read(folder)
    assert caught.value.where == str(folder / name)


def test_a_file_in_place_of_a_bundle_is_a_problem(folder):
    with pytest.raises(Problem, match="Not a directory"):
        bundle.read(folder / bundle.MODEL)


def test_a_type_that_is_not_allowed_is_refused_by_name_and_its_code_never_runs(tmp_path, monkeypatch):
    canary, name = tmp_path / "canary", f"{Canary.__module__}.Canary"
    pipeline = Pipeline([*fitted().steps[:-1], ("canary", Canary(str(canary))), *fitted().steps[-1:]])

    with pytest.raises(Problem, match=f"refused: .* may not hold: {name}"):
        save(tmp_path / "refused", pipeline)
    assert not canary.exists()

    # As made by someone else; and the canary does sing where it may.
    content = bundle.dump(pipeline)
    monkeypatch.setattr(bundle, "ALLOWED", (*bundle.ALLOWED, name))
    save(tmp_path / "made")
    (tmp_path / "made" / bundle.PIPELINE).write_bytes(content)
    edit(
        tmp_path / "made" / bundle.MANIFEST,
        lambda manifest: manifest["files"].update(
            {bundle.PIPELINE: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
        ),
    )
    bundle.load(tmp_path / "made")
    assert canary.exists()
    canary.unlink()
    monkeypatch.undo()

    with pytest.raises(Problem, match=f"refused: .* may not hold: {name}"):
        bundle.load(tmp_path / "made")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["task", "taskforce.Evil", "lightgbm.basic.Booster2", "sklearn.utils._bunch.Bunch.x"])
def test_a_name_that_only_begins_like_an_allowed_one_is_not_allowed(name, monkeypatch):
    import skops.io

    monkeypatch.setattr(skops.io, "get_untrusted_types", lambda **_: [name, "task.features.Mine"])

    with pytest.raises(Problem, match=rf"may not hold: {re.escape(name)}\n"):
        bundle.restore(b"", Path("pipeline.skops"))


def test_what_cannot_be_stored_without_pickle_is_a_problem():
    with pytest.raises(Problem, match="cannot be stored without pickle"):
        bundle.dump(row for row in ())


def test_a_pipeline_that_storing_changes_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ALLOWED", (*bundle.ALLOWED, f"{Forgetful.__module__}.Forgetful"))

    with pytest.raises(Problem, match="does not predict what the fitted one does"):
        save(tmp_path, fitted(model=Forgetful()))


@pytest.mark.parametrize(
    ("task", "key"), [("binary", "probabilities"), ("multiclass", "probabilities"), ("regression", "predictions")]
)
def test_a_golden_row_that_is_answered_differently_is_found(tmp_path, task, key):
    loaded = save(tmp_path, task=task)
    answers = np.array(loaded.golden[key])
    answers[3] += 0.001
    answers[7] = np.nan

    changed = loaded._replace(golden=loaded.golden | {key: answers.tolist()})

    assert bundle.check_golden(loaded) == []
    assert bundle.check_golden(changed) == [3, 7]
    assert bundle.check_golden(changed, tolerance=0.01) == [7]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_threshold_decides_the_label(tmp_path, threshold):
    loaded = save(tmp_path, threshold=threshold)

    labels, probabilities = loaded.predict_records(RECORDS)

    assert labels == ["yes" if probability >= threshold else "no" for probability in probabilities[:, 1]]
    assert 0.2 < probabilities[:, 1].min() < 0.5 < probabilities[:, 1].max() < 0.9


def test_a_row_at_the_threshold_is_positive(tmp_path):
    probability = float(save(tmp_path).predict_records(RECORDS[:1])[1][0, 1])

    assert save(tmp_path, threshold=probability).predict_records(RECORDS[:1])[0] == ["yes"]


def test_the_most_probable_label_is_the_answer(tmp_path):
    labels, probabilities = save(tmp_path, task="multiclass").predict_records(RECORDS)

    assert labels == ["abc"[number] for number in probabilities.argmax(axis=1)]
    assert set(labels) == set("abc")


def test_a_regression_answers_numbers(tmp_path):
    values, probabilities = save(tmp_path, task="regression").predict_records(RECORDS)

    assert probabilities is None
    assert all(isinstance(value, float) for value in values)
