"""The prediction log: one line of JSON per row, in segments that a shipper takes away. And the event log.

A line is written before its request is answered, by one unbuffered write: what was acknowledged survives the process, not the disk.
"""

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from pawl.problem import Problem
from pawl.serving.settings import Settings, listed

OPEN = ".open"  # of a segment that is being written


ENCODER = msgspec.json.Encoder()


class Line(msgspec.Struct, gc=False):
    """A row that was answered."""

    time: float  # seconds since 1970
    request_id: str
    row: int  # of its request
    model_version: str
    prediction: Any  # label, or value
    probabilities: Sequence[float] | None  # in the labels' order
    features: Any  # an object: {column: cell}


class PredictionLog:
    """Segments in a folder: predictions-<time>-<process>-<number>.jsonl (process: a random name), with `.open` behind it until it is complete."""

    def __init__(self, settings: Settings, columns: Sequence[str], version: str, drop: Callable[[int], None]) -> None:
        """Raise Problem if the folder cannot be written, or if a column to leave out does not exist."""
        without = listed(settings.log_without)
        for name in without:
            if name not in columns:
                what = f"PAWL_LOG_WITHOUT names {name}, which is no column"
                raise Problem(what, ", ".join(columns), "correct the name")
        kept = [(number, name) for number, name in enumerate(columns) if name not in without]
        fields = {f"c{number}": name for number, name in kept}
        self.features: Any = msgspec.defstruct("Features", [(each, Any) for each in fields], rename=fields, gc=False)
        places = [number for number, _ in kept]
        self.part = None if not without else itemgetter(*places) if len(places) > 1 else lambda row: [row[at] for at in places]  # fmt: skip
        self.folder, self.settings, self.version, self.drop = Path(settings.log_dir), settings, version, drop
        self.lock, self.file, self.path, self.size, self.number = threading.Lock(), -1, self.folder, 0, 0
        self.begun, self.retry, self.dropping = 0.0, 0.0, False
        self.process = os.urandom(4).hex()  # in each container it has the number 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.held = os.open(self.folder / ".lock", os.O_CREAT | os.O_WRONLY, 0o640)
            # Who comes second would take the other's segments for left ones.
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in self.folder.glob(f"*{OPEN}"):  # of a process that was killed: nothing else writes here
                os.truncate(left, left.read_bytes().rfind(b"\n") + 1)  # it may have been killed within a write
                left.rename(left.with_suffix(""))
            self._open()
        except OSError as error:
            raise Problem(f"the prediction log cannot be written: {error.strerror}", self.folder, "PAWL_LOG_DIR must be a folder of this process alone") from error  # fmt: skip

    def write(
        self,
        request: str,
        rows: Sequence[Sequence[Any]],
        answers: Sequence[Any],
        scores: Sequence[Sequence[float]] | None,
    ) -> None:
        """Add the rows of a request; count them as dropped if they cannot be."""
        now, version, features = time.time(), self.version, self.features
        parts = map(self.part, rows) if self.part else rows
        each: Sequence[Any] = scores or [None] * len(rows)
        lines = [
            Line(now, request, number, version, answer, score, features(*part))
            for number, (part, answer, score) in enumerate(zip(parts, answers, each, strict=True))
        ]
        content = ENCODER.encode_lines(lines)
        with self.lock:
            try:
                if now < self.retry:
                    raise OSError
                if self.file < 0 or self.size + len(content) > self.settings.log_segment_bytes:
                    self._turn()
                written = os.write(self.file, content)
                if written < len(content):  # the disk is full: half a line must not stay
                    os.ftruncate(self.file, self.size)
                    raise OSError
                self.size += len(content)
                if self.dropping:
                    self.dropping = False
                    event("prediction log goes on", folder=str(self.folder))
            except OSError as error:
                if not self.dropping:
                    why = error.strerror or f"PAWL_LOG_MAX_BYTES: {self.settings.log_max_bytes:,} lie there"
                    event("prediction log drops rows", folder=str(self.folder), why=why)
                    self.dropping = True
                self.retry = max(self.retry, now + 1.0) if now >= self.retry else self.retry
                self.drop(len(rows))

    def tick(self) -> None:
        """Complete a segment that is old enough; called every second, so that a quiet service ships too."""
        with self.lock:
            if self.size and time.time() - self.begun > self.settings.log_segment_seconds:
                with contextlib.suppress(OSError):
                    self._turn()

    def close(self) -> None:
        """Complete the last segment."""
        with self.lock:
            self._close()
            os.close(self.held)

    def _turn(self) -> None:
        self._close()
        total = 0
        for path in self.folder.glob("predictions-*"):
            with contextlib.suppress(FileNotFoundError):  # a shipper took it away meanwhile
                total += path.stat().st_size
        if total + self.settings.log_segment_bytes > self.settings.log_max_bytes:
            raise OSError
        self._open()

    def _open(self) -> None:
        self.number += 1
        self.begun, self.size = time.time(), 0
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.begun))
        self.path = self.folder / f"predictions-{stamp}-{self.process}-{self.number}.jsonl{OPEN}"
        self.file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o640)

    def _close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
            if self.size:
                self.path.rename(self.path.with_suffix(""))
            else:
                self.path.unlink()


def event(name: str, **facts: Any) -> None:
    """Tell an event on standard error, as one line of JSON: never a value of a request."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": stamp, "event": name, **facts}), file=sys.stderr, flush=True)  # noqa: T201 - it is the log
