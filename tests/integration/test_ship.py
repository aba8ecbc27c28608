"""The prediction log's way from a pod to where it is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import ship

NAMES = ["predictions-20260131T235959Z-0a0b-1.jsonl", "predictions-20260201T000001Z-0a0b-2.jsonl"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_text(f'{{"row": {number}}}\n')
    (folder / "predictions-20260201T000101Z-0a0b-3.jsonl.open").write_text("{")
    return folder


def test_complete_segments_go_to_a_folder_a_day_and_the_open_one_stays(folder, tmp_path, capsys):
    target = tmp_path / "kept"

    assert ship.main(["--from", str(folder), "--to", target.as_uri()]) == 0

    assert capsys.readouterr().out == f"2 segments shipped to {target.as_uri()}\n"
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*.*")) == [f"20260131/{NAMES[0]}", f"20260201/{NAMES[1]}"]  # fmt: skip
    assert (target / "20260201" / NAMES[1]).read_text() == '{"row": 1}\n'
    assert [path.name for path in folder.iterdir()] == ["predictions-20260201T000101Z-0a0b-3.jsonl.open"]
    assert ship.main(["--from", str(folder), "--to", str(target)]) == 0
    assert capsys.readouterr().out.startswith("0 segments")


def test_a_place_that_cannot_be_written_leaves_every_segment(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert ship.main(["--from", str(folder), "--to", str(tmp_path / "file")]) == 3

    told = capsys.readouterr().err
    assert "error: a segment was not shipped: " in told
    assert "it stays" in told
    assert len(list(folder.iterdir())) == 3


def test_half_a_copy_does_not_count(folder, tmp_path, capsys, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    def half(self, source, target, **_):
        Path(target).write_bytes(Path(source).read_bytes()[:3])

    monkeypatch.setattr(LocalFileSystem, "put_file", half)

    assert ship.main(["--from", str(folder), "--to", str(tmp_path / "kept")]) == 3

    assert "arrived with 3 bytes" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from", "nowhere", "--to", "kept"], "error: there is no such folder\n  where: nowhere"),
        (["--from", ".", "--to", "nosuch://kept"], "error: nosuch://kept cannot be used: "),
    ],
)
def test_a_wrong_address_is_named(words, told, capsys):
    assert ship.main(words) == 2

    assert capsys.readouterr().err.startswith(told)


def test_as_a_service_of_its_own_it_ships_once_more_when_it_is_ended(folder, tmp_path):
    words = [sys.executable, "-m", "scripts.ship", "--from", folder, "--to", tmp_path / "kept", "--every", "3600"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 30
            while list(folder.glob("*.jsonl")):
                assert time.monotonic() < until
                time.sleep(0.05)
            (folder / NAMES[0]).write_text("late\n")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        finally:
            process.kill()

    assert process.returncode == 0
    assert not list(folder.glob("*.jsonl"))
    assert (tmp_path / "kept/20260131" / NAMES[0]).read_text() == "late\n"
