"""Move complete segments of the prediction log to where they are kept.

python -m scripts.ship --from /var/log/predictions --to s3://bucket/predictions             once
python -m scripts.ship --from /var/log/predictions --to s3://bucket/predictions --every 60  until SIGTERM, and once more then

Any address of fsspec: s3://, gs://, abfs://, a folder. The same segment twice is the same file. Exit code: 0 done, 2 your input,
3 the place does not answer (with --every it is told, and tried again).
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pawl.problem import Problem, Unreachable
from scripts import cli

DAY = slice(len("predictions-"), len("predictions-20260131"))


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Ship."""
    parser = cli.parser("ship", __doc__)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="PAWL_LOG_DIR of the service")
    parser.add_argument("--to", required=True, metavar="URL", help="where they are kept; a folder a day is made there")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on; without it once")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        fix = "give PAWL_LOG_DIR of the service, on a volume that both see"
        raise Problem("there is no such folder", args.folder, fix)
    place, root = opened(args.to)
    if args.every is None:
        print(f"{ship(args.folder, place, root)} segments shipped to {args.to}")
        return 0
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while True:
        last = ended.is_set()
        try:
            ship(args.folder, place, root)
        except Unreachable as error:
            print(error, file=sys.stderr, flush=True)
        if last:
            return 0
        ended.wait(args.every)


def opened(url: str) -> tuple[Any, str]:
    """Return (an fsspec file system, the path in it)."""
    import fsspec

    try:
        place, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        fix = "give an address of fsspec; s3://, gs:// and abfs:// need requirements/s3.txt, gs.txt, azure.txt"
        raise Problem(f"{url} cannot be used: {error}", url, fix) from error
    return place, str(root).rstrip("/")


def segments(place: Any, root: str) -> dict[str, str]:
    """Return {name: where it lies} of the complete segments in a place."""
    found = {PurePosixPath(each).name: each for each in place.find(root)}
    return {name: each for name, each in found.items() if name.startswith("predictions-") and name.endswith(".jsonl")}


@contextlib.contextmanager
def reached(what: str, where: str, fix: str) -> Iterator[None]:
    """Let what a store refuses, each with exceptions of its own, be Unreachable: what was not done, and why."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:
        raise Unreachable(f"{what}: {type(error).__name__}: {error}", where, fix) from error


def ship(folder: Path, place: Any, root: str) -> int:
    """Copy each complete segment, see that it is whole, remove it here; return how many."""
    found = sorted(folder.glob("predictions-*.jsonl"))
    for segment in found:
        target = f"{root}/{segment.name[DAY]}/{segment.name}"
        with reached("a segment was not shipped", target, "it stays; see that the store answers and may be written"):
            place.makedirs(target.rpartition("/")[0], exist_ok=True)
            place.put_file(str(segment), target)
            size = place.info(target)["size"]
        if size != segment.stat().st_size:
            raise Unreachable(f"a segment arrived with {size} bytes", target, "it stays here; run again")
        segment.unlink()
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
