"""The three files that people wrote for version 0.1.0 load with every later one. A text here is never edited: it is what somebody has."""

import pytest

from pawl import config, schema
from pawl.gate import rules

LEAST = {
    config: """
task: regression
target: y
positive: null
threshold: 0.5
columns: {}
ingest: {}
validate: {}
prepare: {}
featurize: {}
train: {}
evaluate: {}
""",
    schema: "columns: {x: {dtype: number}, y: {dtype: number}}",
    rules: "version: 1\nmetrics: {rmse: {direction: lower, ceiling: 9}}",
}
MOST = {
    config: """
task: binary
target: y
positive: "yes"
threshold: {rule: cost, false_positive: 1, false_negative: 5}
columns: {id: id, time: t, group: g, split: s, ignore: [note]}
ingest:
  source: {train: a.csv, test: b.csv}
  format: csv
  digest: sha256:00
  replace: {y: {"1": "yes"}}
  csv: {separator: ";", quote: "'", names: [x, y], missing: ["?"], comment: "|", encoding: latin-1, trim: true}
  sample: {rows: 100, seed: 1, drift: 0.5}
  sql: {query: query.sql, days: 30, until: "2026-01-01", version: version.sql}
validate: {min_rows: 1, min_class_rows: 1, warn_missing: 0.1, max_leakage: 0.9, allow_leakage: [x], max_overlap: 0.1, unit_jump: 2.0}
prepare: {split: group, test: 0.1, valid: 0.1, valid_from: "2026-01", test_from: "2026-02", seed: 1, drop_duplicates: true, drop_missing: [x]}
featurize: {}
train: {model: sklearn.linear_model.LogisticRegression, params: {C: 2.0}, early_stopping: 0, class_weight: balanced, device: cpu, seed: 1, compile: false}
evaluate: {slices: [g], min_slice_rows: 10, folds: 3, bootstrap: 20}
tune: {metric: roc_auc, space: {train.params.C: {low: 0.1, high: 10.0, log: true}}, sampler: tpe, trials: 3, objective: folds}
retrain: {tune: true, cooldown_days: 3, auto_merge: true}
drift: {level: 0.01, effect: 0.2, share: 0.5, min_rows: 100, max_loss: 0.1, metric: accuracy, columns: [x], rows: 1000}
""",
    schema: """
columns:
  x: {dtype: number, missing: 0.1, min: 0, max: 9, unique: true, scale: 1.5, public: true}
  y: {dtype: category, values: ["no", "yes"]}
""",
    rules: """
version: 1
mode: report
strict: true
confidence: 0.9
metrics:
  roc_auc: {direction: higher, floor: 0.8, ceiling: 0.99, max_regression: 0.01, method: delong, level: warn}
  model_bytes: {direction: lower, max_regression: 400%}
  log_loss: {direction: lower, max_gap: 0.1}
slices: [{by: [g], min_rows: 10, required: [g=a], metrics: {roc_auc: {direction: higher, floor: 0.7}}}]
baseline: {min_rows: 100, ancestors: 5, high_water: 5, predictions: 100, if_missing: fail, if_not_comparable: skip}
waivers: [{rule: roc_auc, reason: the table was repaired, until: "2026-12-31"}]
""",
}


@pytest.mark.parametrize("module", [config, schema, rules], ids=["params.yaml", "schema.yaml", "gates.yaml"])
@pytest.mark.parametrize("written", [LEAST, MOST], ids=["least", "most"])
def test_what_was_written_for_an_earlier_version_still_loads(module, written, tmp_path):
    (tmp_path / "file.yaml").write_text(written[module])

    module.load(tmp_path / "file.yaml")
