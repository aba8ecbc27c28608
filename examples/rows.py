"""Print ten test rows of an example: what each is, and what the model says that the registry calls `candidate`.

cd .pawl/examples/iris && PYTHONPATH=src ../../../.venv/bin/python ../../../examples/rows.py
"""

import tempfile
import tomllib
from pathlib import Path

import pyarrow.parquet as pq

from pawl import bundle, paths, registry, tracking

ROWS = 10


def main() -> None:
    name = tomllib.loads(Path("pyproject.toml").read_text())["project"]["name"]
    with tracking.store() as store, tempfile.TemporaryDirectory() as folder:
        version = registry.named(store.client, name, registry.CANDIDATE)
        if version is None:
            print(f"models:/{name}@candidate names no version: `make report` says why")
            return
        loaded = bundle.load(registry.download(store, name, version.version, Path(folder)))
    rows = pq.read_table(paths.PREPARED / "test.parquet").slice(0, ROWS).to_pylist()
    actual = [row[loaded.manifest["target"]] for row in rows]
    predicted, _ = loaded.predict_records([{column: row[column] for column in loaded.dtypes} for row in rows])
    print(f"models:/{name}@candidate is version {version.version}. Ten rows of the test split:\n")
    for cells in (("actual", "predicted"), *zip(actual, predicted, strict=True)):
        print("".join(f"  {each:<14.5g}" if isinstance(each, float) else f"  {each!s:<14}" for each in cells).rstrip())
    print()


if __name__ == "__main__":
    main()
