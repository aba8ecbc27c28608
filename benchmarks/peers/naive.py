"""What a tutorial serves with: a pydantic model, a DataFrame of the records, the fitted pipeline. python naive.py PORT."""

import json
import sys
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

KINDS = {"category": str, "boolean": bool}
columns = json.loads(Path("manifest.json").read_text())["features"]
fields: dict[str, Any] = {name: (KINDS.get(dtype, float) | None, ...) for name, dtype in columns.items()}
Record: Any = create_model("Record", **fields)


class Records(BaseModel):
    """The body."""

    records: list[Record]


app = FastAPI()
pipeline = joblib.load("model.joblib")


@app.post("/predict")
async def predict(body: Records) -> list[list[float]]:
    frame = pd.DataFrame([record.model_dump() for record in body.records])
    return pipeline.predict_proba(frame).tolist()


uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
