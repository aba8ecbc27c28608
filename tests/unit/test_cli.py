"""Whatever happens to a script, its user gets a message in three lines and a code that is no verdict."""

import pytest

from pawl.problem import Problem, Unreachable
from scripts import cli, gate, selftest, store

PERMISSION = PermissionError(13, "Permission denied", "data/raw.parquet")


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (Problem("a", "b", "c"), 2, "error: a\n  where: b\n  fix: c\n"),
        (Unreachable("a", "b", "c"), 3, "error: a\n  where: b\n  fix: c\n"),
        (FileNotFoundError(2, "No such file or directory", "docker"), 2, "error: docker is not there\n"),
        (PERMISSION, 3, "error: [Errno 13] Permission denied: 'data/raw.parquet'\n"),
        (ConnectionRefusedError(111, "Connection refused"), 3, "error: [Errno 111] Connection refused\n"),
        (KeyError("row"), 70, "error: KeyError: 'row'\n"),
        (ValueError("one\ntwo"), 70, "error: ValueError: one\n"),
        (RuntimeError(), 70, "error: RuntimeError: \n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_three_lines_and_a_code(error, code, what, capsys, monkeypatch):
    monkeypatch.delenv("PAWL_DEBUG", raising=False)

    @cli.told
    def fails() -> int:
        raise error

    assert fails() == code
    told = capsys.readouterr().err
    assert told.startswith(what)
    assert len(told.splitlines()) == (1 if code == 130 else 3)


def test_an_unexpected_error_names_our_line_and_shows_the_rest_where_it_is_asked_for(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAWL_DEBUG", "1")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/report.json").mkdir()

    assert selftest.main([]) == 2
    told = capsys.readouterr().err

    assert told.startswith("error: src is not there\n  where: scripts/selftest.py:")
    assert "Traceback (most recent call last)" in told
    assert gate.main([]) == 3
    assert "Is a directory: 'reports/report.json'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        store.main(["--nonsense"])
