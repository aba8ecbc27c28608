import json

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
