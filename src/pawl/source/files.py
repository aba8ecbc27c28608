"""Files and URLs: a file, a pattern, a folder. What is not local is fetched once into .pawl/downloads."""

import glob
import hashlib
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

from pawl import paths
from pawl.problem import Problem, Unreachable

ATTEMPTS = 3
WHERE = f"{paths.PARAMS}: ingest.source"
VERSIONS = ("VersionId", "ETag", "etag", "md5Hash", "generation", "content_md5")  # how storages name a file's version
T = TypeVar("T")


class File(NamedTuple):
    """One file of the source. `name` is what params.yaml says, without secrets; `path` is where its bytes lie here."""

    name: str
    part: str | None  # train, valid or test, where the source says so
    path: Path
    sha256: str
    size: int


def find_files(name: str, part: str | None) -> list[File]:
    """Return the files that one entry of ingest.source stands for, fetched and hashed."""
    import fsspec

    address = os.path.expandvars(name)
    label = re.sub(r"(?<=://)[^/@]*@", "", name.split("?", maxsplit=1)[0])  # what follows may be a signature
    if undefined := re.search(r"\$\{(\w+)|^\$(\w+)", address):
        variable = undefined[1] or undefined[2]
        what, fix = f"the environment variable {variable} is not set", f"set it: {variable}=<folder> make run"
        raise Problem(what, f"{WHERE}, {label}", fix)
    try:
        system, path = fsspec.core.url_to_fs(address, **_options(address))
    except (ValueError, ImportError) as error:
        fix = "install the extra of that storage: requirements/{s3,gs,azure}.txt"
        raise Problem(f"{label} cannot be opened: {error}", WHERE, fix) from error
    if "file" in system.protocol:
        local = _local(Path(path), label)
        return [File(label if str(each) == path else each.name, part, each, *hash_file(each)) for each in local]
    many = "*" in path and "http" not in system.protocol
    listed = _patiently(label, lambda: sorted(system.glob(path))) if many else []
    found = [each for each in listed if _is_data(PurePath(each))] if many else [path]
    if not found:
        raise Problem(f"{label} matches nothing", WHERE, "correct the pattern; a folder is folder/*.parquet")
    return [_download(system, each, each if many else label, part) for each in found]


def hash_file(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 and size in bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


def _local(path: Path, label: str) -> list[Path]:
    """Return the data files at a path, which may be a pattern or a folder."""
    pattern = "*" in str(path)
    found = [path]
    if pattern or path.is_dir():
        outer = sorted(map(Path, glob.glob(str(path), recursive=True))) if pattern else [path]  # noqa: PTH207 - Path.glob takes no absolute pattern
        base = Path(str(path).partition("*")[0]).parent if pattern else path
        inner = [file for each in outer for file in (sorted(each.rglob("*")) if each.is_dir() else [each])]
        found = [file for file in inner if file.is_file() and _is_data(file.relative_to(base))]
    if not found or not all(file.is_file() for file in found):
        fix = f"correct the path; it is relative to {Path.cwd()}"
        if any(Path(f"{each}.dvc").exists() for each in (path, *path.parents)):
            fix = "DVC keeps it: run `dvc pull` or `dvc checkout`"
        raise Problem(f"{label} does not exist", WHERE, fix)
    return found


def _is_data(path: PurePath) -> bool:
    """Say whether a file is data: .gitignore, _SUCCESS, .ipynb_checkpoints/ and DVC's own files lie beside it."""
    return not any(part.startswith((".", "_")) for part in path.parts) and path.suffix != ".dvc"


def _download(system: Any, address: str, label: str, part: str | None) -> File:
    """Fetch a remote file, unless the version it has now was fetched before. A partial one is never left under its name."""
    info = _patiently(label, lambda: system.info(address))
    version = next((str(info[key]) for key in VERSIONS if info.get(key)), None)
    key = hashlib.sha256(f"{address} {version}".encode()).hexdigest()[:32]
    path = paths.DOWNLOADS / (key + "".join(Path(urllib.parse.urlsplit(label).path).suffixes[-2:]))
    if version is None or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            _patiently(label, lambda: system.get_file(address, str(partial)))
            size = partial.stat().st_size
            if info.get("size") not in (None, size):
                raise Unreachable(f"{label} broke off: {size} of {info['size']} bytes came", WHERE, "run again")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return File(label, part, path, *hash_file(path))


def _options(address: str) -> dict[str, Any]:
    """Return what a storage library needs to be told: aiohttp ends every download after five minutes otherwise."""
    if not address.startswith(("http://", "https://")):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _patiently(label: str, action: Callable[[], T]) -> T:
    """Return what the action returns, tried ATTEMPTS times with growing pauses."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:  # each storage library has exceptions of its own
            answer = _status(error)
            if answer in {404, 410}:
                raise Problem(f"{label} does not exist", WHERE, "correct the address") from error
            if answer in {401, 403}:
                fix = "check the credentials in the environment"
                raise Problem(f"access to {label} was refused", WHERE, fix) from error
            if attempt == ATTEMPTS - 1:
                cause = f"HTTP {answer}" if answer else type(error.__cause__ or error).__name__
                fix = "check the network and the address, then run again"
                raise Unreachable(f"{label} did not answer: {cause}", WHERE, fix) from error
            time.sleep(0.5 * 2**attempt)
    raise AssertionError


def _status(error: BaseException) -> int | None:
    """Return the HTTP status an error stands for; None for no answer. fsspec calls every failure of HTTP a FileNotFoundError."""
    import aiohttp

    if isinstance(error, FileNotFoundError):
        of_http = isinstance(error.__cause__, aiohttp.ClientError | TimeoutError)
        return getattr(error.__cause__, "status", None) if of_http else 404
    if isinstance(error, PermissionError):
        return 403
    storage = getattr(error.__cause__ or error, "response", None)  # botocore's
    metadata = storage.get("ResponseMetadata", {}) if isinstance(storage, dict) else {}
    return metadata.get("HTTPStatusCode") or getattr(error, "status", None)
