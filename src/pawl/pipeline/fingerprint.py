"""source -> data/source.json: what identifies the data, looked at in every run, so that one changed cell reruns the pipeline."""

import json

from pawl import paths, source
from pawl.config import Ingest


def run(params: Ingest) -> None:
    """Write the source's fingerprint; raise Problem if params.yaml pins another one."""
    paths.SOURCE.parent.mkdir(parents=True, exist_ok=True)
    paths.SOURCE.write_text(text(params))


def text(params: Ingest) -> str:
    """Return what the file holds for the source as it is now."""
    return json.dumps(source.fingerprint(params), indent=2) + "\n"
