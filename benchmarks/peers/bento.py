"""The fitted pipeline in BentoML, with and without its adaptive batching. MODEL names the pipeline's file."""

import os
from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service
class Model:
    """The service."""

    def __init__(self) -> None:
        self.pipeline = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, records: list[dict[str, Any]]) -> list[list[float]]:
        """Return the probabilities."""
        return self.pipeline.predict_proba(pd.DataFrame(records)).tolist()

    @bentoml.api(batchable=True, max_batch_size=1000, max_latency_ms=10_000)
    def adaptive(self, records: list[dict[str, Any]]) -> list[list[float]]:
        """Return the probabilities."""
        return self.pipeline.predict_proba(pd.DataFrame(records)).tolist()
