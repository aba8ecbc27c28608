import json

import pytest

from pawl.problem import Problem
from pawl.serving.log import PredictionLog
from pawl.serving.settings import Settings


def test_a_segment_that_a_shipper_takes_away_meanwhile_costs_no_row(tmp_path):
    """What is listed may be gone when it is looked at: as this link's target is."""
    dropped = []
    log = PredictionLog(Settings(log_dir=str(tmp_path), log_segment_bytes=500), ["age"], {}, dropped.append)
    (tmp_path / "predictions-taken.jsonl").symlink_to("nowhere")

    for number in range(20):
        log.write(f"request {number}", [(number,)], ["yes"], [[0.25, 0.75]])
    log.close()

    texts = [path.read_text() for path in tmp_path.iterdir() if path.exists()]
    assert dropped == []
    assert len(texts) > 3
    assert sorted(json.loads(line)["features"]["age"] for text in texts for line in text.splitlines()) == [*range(20)]


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    """Its open segment would be taken for one that a killed process left, and shipped away under it."""
    settings = Settings(log_dir=str(tmp_path))
    first = PredictionLog(settings, ["age"], "3", lambda _: None)

    with pytest.raises(Problem, match="the prediction log cannot be written"):
        PredictionLog(settings, ["age"], "3", lambda _: None)

    first.close()
    PredictionLog(settings, ["age"], "3", lambda _: None).close()


def test_rows_that_are_dropped_are_told_once_and_again_when_it_goes_on(tmp_path, capsys):
    dropped = []
    limits = {"log_segment_bytes": 300, "log_max_bytes": 600}
    log = PredictionLog(Settings(log_dir=str(tmp_path), **limits), ["age"], "3", dropped.append)

    for number in range(8):
        log.write(f"request {number}", [(number,)], ["yes"], [[0.25, 0.75]])
    for segment in tmp_path.glob("predictions-*.jsonl"):
        segment.unlink()  # as a shipper does
    log.retry = 0.0
    log.write("the last", [(9,)], ["yes"], [[0.25, 0.75]])
    log.close()

    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["event"] for each in told] == ["prediction log drops rows", "prediction log goes on"]
    assert told[0]["why"] == "PAWL_LOG_MAX_BYTES: 600 lie there"
    assert sum(dropped) > 0
