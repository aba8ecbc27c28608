"""Values written into a file that people edit: nothing else in it changes."""

from pathlib import Path

import pytest

from pawl import yamlfile
from pawl.problem import Problem

SAMPLE = Path(__file__).parents[1] / "sample/params.yaml"
CHANGES = {
    "a value, and its comment stays in its column": ("a: 15     # why\nb: 2\n", {"a": 1000}, "a: 1000   # why\nb: 2\n"),
    "a longer value moves it": ("a: 1  # why\n", {"a": "a longer one"}, "a: a longer one # why\n"),
    "below a section": ("t:\n  p:\n    x: 1\n    y: 2\n\n# e\ne: 1\n", {"t.p.x": 0.5}, "t:\n  p:\n    x: 0.5\n    y: 2\n\n# e\ne: 1\n"),
    "a key that is absent": ("t:\n  p:\n    x: 1  # x\n\n# e\ne: 1\n", {"t.p.z": True}, "t:\n  p:\n    x: 1  # x\n    z: true\n\n# e\ne: 1\n"),
    "a section that is absent": ("e: 1", {"t.p.z": None}, "e: 1\nt: {p: {z: null}}\n"),
    "a section in one line": ("t: {x: 1}  # t\n", {"t.x": 2, "t.y": [1]}, "t: {x: 2, y: [1]}  # t\n"),
    "an empty section": ("t:\n  p: {}\n", {"t.p.x": 1}, "t:\n  p: {x: 1}\n"),
    "a section of nothing": ("t:\n  p:\ne: 1\n", {"t.p.x": 1}, "t:\n  p: {x: 1}\ne: 1\n"),
    "a text that YAML would take for a number": ("a: b\n", {"a": "12"}, "a: '12'\n"),
    "the ends of lines": ("a: 1\r\nb: ü\r\n", {"a": 2, "c": "ö"}, "a: 2\r\nb: ü\r\nc: ö\r\n"),
    "after a list": ("t:\n  l:\n    - 1\n    - 2  # two\ne: 1\n", {"t.x": 1}, "t:\n  l:\n    - 1\n    - 2  # two\n  x: 1\ne: 1\n"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "values", "after"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_of_these_values_alone(tmp_path, before, values, after):
    path = tmp_path / "params.yaml"
    path.write_bytes(before.encode())
    path.chmod(0o640)

    yamlfile.change(path, values)

    assert path.read_bytes().decode() == after
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_of_what_is_shipped_the_lines_alone_change(tmp_path):
    path, shipped = tmp_path / "params.yaml", SAMPLE.read_text()
    path.write_text(shipped)

    yamlfile.change(path, {"threshold": 0.25, "train.params.num_leaves": 63, "train.early_stopping": 1000})

    changed = [
        (old, new) for old, new in zip(shipped.splitlines(), path.read_text().splitlines(), strict=True) if old != new
    ]
    assert [old.split(":")[0].strip() for old, _ in changed] == ["threshold", "num_leaves", "early_stopping"]
    assert all(old.find("#") == new.find("#") for old, new in changed)


@pytest.mark.parametrize("content", ["a: |\n  one\nb: 1\n", "a:\n  - 1\n", "a: &x 1\nb: *x\n", "b: &x 1\na: *x\n"])
def test_what_cannot_be_changed_alone_is_left(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content)

    with pytest.raises(Problem):
        yamlfile.change(path, {"a": 3})

    assert path.read_text() == content
