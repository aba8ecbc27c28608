"""Window after window: check the champion, retrain where it fell, predict, publish.

python -m scripts.cycle --to s3://bucket/predictions                       today's window (UTC)
python -m scripts.cycle --to /srv/predictions --from new.csv --window 2026-01-31

What a CronJob or a workflow runs where nobody watches. Killed and run again it goes on with what its window lacks. A retraining that fails,
or waits for its pull request, holds no predictions back: they are the present champion's; one that ended this process is tried again
after them. <to>/latest.json says where the newest lie. Exit code: 0 done, 1 the champion fell (with --exit-code), 2 your input or configuration, 3 something outside did not
answer, or a step other than the predictions failed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pawl import paths
from pawl.problem import Problem, Unreachable
from scripts import cli, run, ship
from scripts.predict import replace

Steps = Mapping[str, Callable[[list[str]], int]]  # {step: what does it, given words, and returns an exit code}
FELL = 1
LONGEST = 4 * 3600  # seconds of a step


def script(name: str, *words: str) -> Callable[[list[str]], int]:
    """Return what runs a script in a process of its own: one that is killed for its memory does not take this one with it."""

    def step(more: list[str]) -> int:
        try:
            return subprocess.run([sys.executable, "-m", f"scripts.{name}", *words, *more], check=False, timeout=LONGEST).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return 3

    return step


def retrain(more: list[str]) -> int:
    """Retrain; on GitHub that is left to retrain.yml, which has the rights and the runner for it."""
    return script("retrain", *["--dispatch"] * ("GITHUB_ACTIONS" in os.environ))(more)


STEPS: Steps = {
    "prepare": script("run", "prepare"),
    "check": script("retrain", "--check"),
    "retrain": retrain,
    "predict": script("predict", "--model", "@champion"),
}


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ, steps: Steps = STEPS) -> int:
    """Do what is not done."""
    parser = cli.parser("cycle", __doc__)
    parser.add_argument("--to", default=environ.get("PREDICTIONS_URL"), metavar="URL", help="where predictions are published; PREDICTIONS_URL without")  # fmt: skip
    parser.add_argument("--from", dest="source", help="what is predicted; ingest.source without")
    parser.add_argument("--window", default=time.strftime("%Y-%m-%d", time.gmtime()), help="what this cycle is called; today without")  # fmt: skip
    parser.add_argument("--exit-code", action="store_true", help="1 where the champion fell")
    args = parser.parse_args(argv)
    if not args.to:
        raise Problem("it is not said where predictions go", "--to", "a folder or an address of fsspec; or set PREDICTIONS_URL")  # fmt: skip
    if not re.fullmatch(r"[\w.-]+", args.window) or args.window.startswith("."):
        raise Problem(f"{args.window} cannot be the name of a folder", "--window", "letters, digits, dots, - and _")
    place, root = ship.opened(args.to)  # a wrong address is known before the work
    with run.only_run("cycle.lock"):
        folder = paths.STATE / "cycle" / args.window
        note = folder.with_suffix(".json")
        folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, int] = json.loads(note.read_text()) if note.exists() else {}
        failed: dict[str, int] = {}

        def noted(step: str, code: int = 0) -> None:
            state[step] = code
            replace(note, lambda path: path.write_text(json.dumps(state)))

        def done(step: str, *words: str, good: Sequence[int] = (0,)) -> bool:
            """Do a step unless it is done; say whether it is."""
            if step in state:
                print(f"{step}: done before", file=sys.stderr)
                return True
            print(f"{step} ...", file=sys.stderr, flush=True)
            if (code := steps[step](list(words))) in good:
                noted(step, code)
            else:
                failed[step] = code
                print(f"{step} failed ({code})", file=sys.stderr)
            return step in state

        def learn() -> None:
            if done("prepare") and done("check", good=(0, FELL)) and state["check"] == FELL:
                done("retrain")

        first = "begun" not in state
        if first:
            noted("begun")
            learn()
        to = folder / "predictions.parquet"
        if not done("predict", "--to", str(to), *(["--from", args.source] if args.source else [])):
            return failed["predict"] if failed["predict"] in {2, 3} else 3
        if "publish" not in state:
            publish(place, root, args.window, to)
            noted("publish")
        if not first:
            learn()
    fell = state.get("check") == FELL
    more = ", the champion fell" * fell + f"; {', '.join(failed)} failed" * bool(failed)
    print(f"window {args.window} is in {args.to}{more}")
    print(f"next: read {args.to.rstrip('/')}/latest.json" + "; run it again for the rest" * bool(failed))
    return 3 if failed else FELL if fell and args.exit_code else 0


def publish(place: Any, root: str, window: str, to: Path) -> None:
    """Put predictions and what belongs to them into the window's folder, each whole or not at all; then let latest.json name them."""
    manifest = json.loads(Path(f"{to}.json").read_text())
    files = [each for each in (to, Path(f"{to}.rejected.parquet"), Path(f"{to}.json")) if each.exists()]
    latest = to.with_name("latest.json")
    told = {"window": window, "files": [f"{window}/{each.name}" for each in files]}
    latest.write_text(json.dumps({**told, **manifest}, indent=2) + "\n")
    for file, target in [
        *((each, f"{root}/{window}/{each.name}") for each in files),
        (latest, f"{root}/{latest.name}"),
    ]:
        fix = "see that the store answers and may be written; run it again"
        with ship.reached("predictions were not published", target, fix):
            place.makedirs(target.rpartition("/")[0], exist_ok=True)
            place.put_file(str(file), f"{target}.partial")
            if (size := place.info(f"{target}.partial")["size"]) != file.stat().st_size:
                raise Unreachable(f"{file.name} arrived with {size} bytes", target, "run it again")
            place.mv(f"{target}.partial", target)


if __name__ == "__main__":
    sys.exit(main())
