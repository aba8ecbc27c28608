"""Versions of the model in MLflow's registry: one per bundle, with aliases `candidate` and `champion`."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pawl.problem import Problem

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous_champion"
RELEASED = "pawl.released"  # the commit whose release made a version champion


def register(client: Any, name: str, run: str, tags: Mapping[str, str]) -> tuple[str, bool]:
    """Return (version of this bundle, whether it is new) and let `candidate` name it. The same digest never makes a second version."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    digest = tags["pawl.digest"]
    known = client.search_model_versions(f"name = '{name}' and tag.`pawl.digest` = '{digest}'")
    ready = sorted(int(each.version) for each in known if each.status == "READY")
    if ready:
        version = str(ready[0])
    else:
        made = client.create_model_version(name, f"runs:/{run}/bundle", run_id=run, tags=dict(tags))
        version = str(made.version)
    client.set_registered_model_alias(name, CANDIDATE, version)
    return version, not ready


def promote(
    client: Any, name: str, version: str, commit: str, image: str, older: Callable[[str, str], bool]
) -> str | None:
    """Let `champion` name a version, and return the version that it named before.

    older(a, b) says whether commit a comes before commit b. Raise Problem if this commit is older than the champion's: a release that
    was overtaken must not take it back. Versions do not tell: a revert makes an early version the right one again.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        raise Problem(f"there is no version {version} of {name}", "--promote", "`make ui` lists them") from error
    before = champion(client, name)
    if before is not None:
        released = client.get_model_version(name, before).tags.get(RELEASED, "")
        if released and released != commit and older(commit, released):
            fix = "nothing to do: a later release has overtaken this one"
            raise Problem(
                f"version {before} is champion since {released[:7]}, which is newer than {commit[:7]}", name, fix
            )
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for key, value in {RELEASED: commit, "pawl.image": image, "pawl.promoted": now}.items():
        client.set_model_version_tag(name, version, key, value)
    if before not in {None, version}:
        client.set_registered_model_alias(name, PREVIOUS, before)
    client.set_registered_model_alias(name, CHAMPION, version)
    return before


def champion(client: Any, name: str) -> str | None:
    """Return the version that `champion` names; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def download(client: Any, name: str, version: str, folder: Path) -> Path:
    """Return where the bundle of a version now lies; raise Problem if it cannot be had."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_model_version(name, version).run_id
        return Path(client.download_artifacts(run, "bundle", str(folder)))
    except (MlflowException, OSError) as error:
        raise Problem(
            f"the bundle of version {version} cannot be had: {error}", name, "`make ui` lists the versions"
        ) from error
