"""Every file that stages and scripts share, relative to the project's root, which is the working directory."""

from pathlib import Path

PARAMS = Path("params.yaml")
SCHEMA = Path("schema.yaml")
GATES = Path("gates.yaml")
LOCK = Path("requirements/pipeline.txt")

SOURCE = Path("data/source.json")
RAW = Path("data/raw.parquet")
PREPARED = Path("data/prepared")
FEATURES = Path("data/features")
BUNDLE = Path("models/bundle")
MADE_BY = Path("models/made_by.json")  # commit and versions of the run that made the bundle; DVC does not keep it

VALIDATION = Path("reports/validation.json")
SPLITS = Path("reports/splits.json")
METRICS = Path("reports/metrics.json")
SLICES = Path("reports/slices.json")
PREDICTIONS = Path("reports/predictions.parquet")
HISTORY = Path("reports/history.csv")  # the learning curves
PLOTS = Path("reports/plots")
ESTIMATOR = Path("reports/estimator")  # what it is, so that nobody has to load it to say so
REPORT = Path("reports/report.json")  # and report.md, report.html beside it
CARD = Path("reports/model_card.md")
ANSWERS = Path("reports/candidate.answers")  # by which the report can be judged again
VALID_ANSWERS = Path("reports/valid.answers")  # of a trial, by which it is compared with others
BASE_ANSWERS = Path("reports/baseline.answers")  # where the baseline was trained here

LOCKFILE = Path("dvc.lock")
STORE = Path("mlflow.db")  # the embedded tracking store, and what it keeps
ARTIFACTS = Path("mlartifacts")

STATE = Path(".pawl")  # nothing in it is needed again
DOWNLOADS = STATE / "downloads"
STAGES = STATE / "stages.jsonl"  # what ran, how long it took
