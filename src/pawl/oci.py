"""Folders and files as one OCI artifact in a container registry: a blob each, so that what did not change is neither packed nor sent again.

Every byte that is fetched is held to the digest that named it, before it is unpacked.
"""

import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

from pawl.problem import Problem, Unreachable

TYPE = "application/vnd.pawl.registry.v1"
CONFIG = b"{}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE, PLAIN = "org.opencontainers.image.title", "pawl.tar"  # of a blob: its path, and the digest before compression
LOGIN = "docker login; the token needs the right to read and write packages"
OTHER = "this was not pushed by `store push`"
LIMIT = 2**34  # bytes that a blob may unpack to


class Repository(NamedTuple):
    """A place in a container registry."""

    name: str  # ghcr.io/me/model/registry, without a tag
    client: Any  # oras.client.OrasClient
    scheme: str

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Return a response as requests.Response; raise Unreachable if none comes, or if it is a refusal."""
        host, _, repository = self.name.partition("/")
        url = urljoin(f"{self.scheme}://{host}/v2/{repository}/", path)
        once = type(self.client).do_request.__wrapped__  # oras tries six times, for two minutes, whatever the error
        for attempt in range(3):
            try:
                answer = once(self.client, url, method, **more)
                if answer.status_code < 500 or attempt == 2:
                    break
            except Exception as error:  # of requests, of oras: credentials that it cannot read are a ValueError
                if attempt == 2:
                    said = " ".join(str(error).split())[:300]
                    raise Unreachable(f"the container registry does not answer, or does not let us in: {said}", self.name, LOGIN) from error  # fmt: skip
            time.sleep(1 + attempt)
        if answer.status_code not in {200, 201, 202, 404}:
            said = " ".join(answer.text.split())[:300]
            raise Unreachable(f"the container registry refuses ({answer.status_code}): {said}", self.name, LOGIN)  # fmt: skip
        return answer


def place(text: str) -> str:
    """Return the name of a place in a container registry, as registries take it: in small letters; raise Problem if it is none.

    GitHub's owners and repositories may have capitals, the images that are named after them may not.
    """
    name = text.lower().rstrip("/")
    if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+", name):
        what = f"{text} names no place in a container registry"
        raise Problem(what, "the command line", "for example ghcr.io/me/project")
    return name


def repository(name: str) -> Repository:
    """Return the repository of a name such as ghcr.io/me/model/registry; raise Problem if it is none."""
    import oras.client
    import oras.logger

    name = place(name)
    oras.logger.setup_logger(quiet=True)
    local = bool(re.match(r"(localhost|127\.0\.0\.1)[:/]", name))
    client = oras.client.OrasClient(hostname=name.partition("/")[0], insecure=local)
    client.auth.load_configs(client.get_container(name))
    client.session.request = functools.partial(client.session.request, timeout=(5, 60))
    return Repository(name, client, "http" if local else "https")


def manifest(place: Repository, reference: str) -> dict[str, Any] | None:
    """Return the manifest of a tag or digest; None if there is none; raise Unreachable if it is not what its digest names."""
    answer = place.ask("GET", f"manifests/{reference}", headers={"Accept": MANIFEST})
    if answer.status_code == 404:
        return None
    if reference.startswith("sha256:") and reference != _digest(answer.content):
        what = f"the manifest is not the one that {reference[:19]} names"
        raise Unreachable(what, place.name, "it was changed on its way, or in the registry: nothing was taken")
    try:
        found = json.loads(answer.content)
        if found["config"]["mediaType"] == TYPE:
            return {**found, "digest": _digest(answer.content)}
    except (ValueError, KeyError, TypeError):
        pass
    raise Problem("what lies there is not a registry that `store push` made", place.name, "name another place")


def push(place: Repository, parts: Mapping[str, Path], before: Mapping[str, Any] | None) -> str:
    """Send files and folders, {path: where it lies}, and return the digest that names them all. before: the last manifest, whose blobs are there."""
    known = {each["annotations"][TITLE]: each for each in (before or {}).get("layers", ())}
    layers = []
    for title, path in sorted(parts.items()):
        packed = _packed(path)
        plain, layer = _digest(packed), known.get(title)
        if layer is None or layer["annotations"][PLAIN] != plain:
            layer = _sent(place, gzip.compress(packed, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
            layer["annotations"] = {TITLE: title, PLAIN: plain}
        layers.append(layer)
    described = {"schemaVersion": 2, "mediaType": MANIFEST, "config": _sent(place, CONFIG, TYPE), "layers": layers}
    content = json.dumps(described).encode()
    digest = _digest(content)
    _put(place, f"manifests/{digest}", content, MANIFEST)
    return digest


def tag(place: Repository, digest: str, name: str) -> None:
    """Let a tag name what a digest names."""
    content = place.ask("GET", f"manifests/{digest}", headers={"Accept": MANIFEST}).content
    _put(place, f"manifests/{name}", content, MANIFEST)


def pull(place: Repository, described: Mapping[str, Any], folder: Path) -> None:
    """Unpack everything that a manifest names below a folder; raise Unreachable if a blob is not what was pushed."""

    def fetch(layer: Mapping[str, Any]) -> None:
        target = Path(layer["annotations"][TITLE])
        if target.is_absolute() or ".." in target.parts:
            raise Problem(f"refused: the path {target}", place.name, OTHER)
        content = place.ask("GET", f"blobs/{layer['digest']}").content
        if _digest(content) != layer["digest"]:
            raise Unreachable(f"{target} is not what was pushed: {len(content):,} bytes of {layer['size']:,}, or altered", place.name, "try again; if it stays so, the registry lost it")  # fmt: skip
        with tempfile.TemporaryFile() as plain:
            with gzip.open(io.BytesIO(content)) as packed:
                while piece := packed.read(2**20):
                    if plain.tell() > LIMIT:
                        raise Problem(f"refused: {target} unpacks to more than {LIMIT:,} bytes", place.name, OTHER)
                    plain.write(piece)
            plain.seek(0)
            with tarfile.open(fileobj=plain) as files:
                unpack(files, folder / target.parent)

    with ThreadPoolExecutor(8) as many:
        for _ in many.map(fetch, described["layers"]):
            pass


def unpack(files: tarfile.TarFile, folder: Path) -> None:
    """Extract an archive, nothing of it outside the folder. Python before 3.11.4, which Debian 12 has, knows no filter: links are refused there."""
    if hasattr(tarfile, "data_filter"):
        files.extractall(folder, filter="data")
        return
    for member in files:
        path = Path(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            fix = "Python 3.11.4 takes links that stay inside"
            raise Problem(f"refused: {path} is a link, or leads out", folder, fix)
    files.extractall(folder)  # noqa: S202 - each name was looked at


def _packed(path: Path) -> bytes:
    """Return a file or folder as a tar: the same bytes for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as files:
        inside: Iterable[Path] = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in inside:
            if each.is_file():
                member = tarfile.TarInfo(str(each.relative_to(path.parent)))
                member.size, member.mode = each.stat().st_size, 0o644
                with each.open("rb") as content:
                    files.addfile(member, content)
    return buffer.getvalue()


def _sent(place: Repository, content: bytes, kind: str) -> dict[str, Any]:
    """Send a blob unless it is there; return its descriptor."""
    digest = _digest(content)
    if place.ask("HEAD", f"blobs/{digest}").status_code == 404:
        where = place.ask("POST", "blobs/uploads/").headers["Location"]
        _put(place, f"{where}{'&' if '?' in where else '?'}digest={digest}", content, "application/octet-stream")
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def _put(place: Repository, path: str, content: bytes, kind: str) -> None:
    if place.ask("PUT", path, data=content, headers={"Content-Type": kind}).status_code == 404:
        fix = "does the repository exist, and may you write to it?"
        raise Unreachable("the container registry does not take it", place.name, fix)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
