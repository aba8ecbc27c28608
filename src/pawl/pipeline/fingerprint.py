"""source -> data/source.json: what identifies the data, looked at in every run, so that one changed cell reruns the pipeline."""

import json

from pawl import paths, source
from pawl.config import Ingest


def run(params: Ingest) -> None:
    """Write the source's fingerprint; raise Problem if params.yaml pins another one."""
    found = source.fingerprint(params)
    paths.SOURCE.parent.mkdir(parents=True, exist_ok=True)
    paths.SOURCE.write_text(json.dumps(found, indent=2) + "\n")
