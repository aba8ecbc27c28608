"""Versions of the model in MLflow's registry: one per bundle, with aliases `candidate` and `champion`.

MLflow's registry has no conditional write. So each writer states what it did first (a version, a tag), looks at what all have stated
then, and settles it by a rule that everyone else would settle it by: whoever looks last has seen all, and leaves the same end.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pawl.gate.verdict import GOOD
from pawl.problem import Problem
from pawl.tracking import Store, settled

CANDIDATE, CHAMPION = "candidate", "champion"
PREVIOUS = "pawl.previous_champion"  # a tag: MLflow's page shows it beside the version
RELEASED = "pawl.released"  # the commit whose release made a version champion
REJECTED = "pawl.rejected"  # why it was taken back, until a person clears it
PROMOTIONS = "pawl.promotions"  # when a version became champion, each time
MANY = ("pawl.commits", "pawl.images", PROMOTIONS)  # tags that hold a word for each
DESCRIPTION = 5000  # characters, as MLflow's database has them
Before = Callable[[str, str], bool]  # whether a commit comes before another, or is it


class Promoted(NamedTuple):
    """What a promotion did."""

    version: str
    before: str | None
    warning: str = ""


@settled
def register(
    store: Store, name: str, model: Any, tags: Mapping[str, str], description: str, before: Before
) -> tuple[str, bool]:
    """Return (version of this model, whether it is new), and let `candidate` name it unless a newer commit's does.

    model: an mlflow.entities.LoggedModel whose files are there. Raise Problem if its digest was rejected. Of versions of one digest,
    made at the same moment, the lowest stays: MLflow numbers them in order, so whoever made a higher one sees it.
    """
    client, digest = store.client, tags["pawl.digest"]
    _make(client, name)
    known = of_digest(client, name, digest)
    refuse_rejected(name, known)
    mine = None
    if not known:
        said = {key: value for key, value in tags.items() if value}
        source = f"models:/{model.model_id}"
        mine = client.create_model_version(name, source, model.source_run_id, said, model_id=model.model_id)
    first, *others = known or of_digest(client, name, digest)
    for each in others:
        if not each.aliases:
            client.delete_model_version(name, each.version)
    version, commit = first.version, tags["pawl.commit"]
    if known and _older(commit, first.tags["pawl.commit"], before):  # once more: the newer one's words stay
        _tag(client, name, first, {key: tags[key] for key in MANY if key in tags})
        return version, False
    _tag(client, name, first, tags)
    if first.description != description[:DESCRIPTION]:
        client.update_model_version(name, version, description[:DESCRIPTION])
    current = named(client, name, CANDIDATE)
    if current is None or before(current.tags["pawl.commit"], commit):
        client.set_registered_model_alias(name, CANDIDATE, version)
    return version, mine is not None and str(mine.version) == version


def promotable(store: Store, name: str, version: str, commit: str, before: Before, *, strict: bool = False) -> Any:
    """Return the version, if `champion` may name it as the release of a commit; raise Problem unless its verdict lets it, if it was rejected, or if a commit was released that this one does not come after.

    Versions do not tell: a revert makes an early one right again.
    """
    chosen = get(store.client, name, version)
    refuse_rejected(name, [chosen])
    verdict = chosen.tags.get("pawl.verdict", "")
    if verdict not in GOOD and (strict or verdict != "inconclusive"):
        what = f"version {version} may not be promoted: its verdict is {verdict or 'unknown'}"
        raise Problem(what, name, "`make report` says why")
    refuse_older(name, released(store.client, name), commit, before)
    return chosen


def promote(
    store: Store, name: str, version: str, commit: str, tags: Mapping[str, str], before: Before, *, strict: bool = False
) -> Promoted:
    """Let `champion` name a version; raise Problem unless it is promotable.

    commit: whose release this is; tags: what else is to be noted.
    """
    client = store.client
    _give_way(client, name, commit, before)  # what was ended before it did is done now
    chosen = promotable(store, name, version, commit, before, strict=strict)
    current = named(client, name, CHAMPION)
    if current is None or current.version != version:
        tags = {**tags, PREVIOUS: current.version if current else "", PROMOTIONS: now()}
    _tag(client, name, chosen, {**tags, RELEASED: commit})
    client.set_registered_model_alias(name, CHAMPION, version)
    _give_way(client, name, commit, before)  # another release, stated between the look and the alias
    unsure = chosen.tags["pawl.verdict"] == "inconclusive"
    said = "its verdict is inconclusive: the test rows cannot tell" if unsure else ""
    return Promoted(version, current and current.version, said)


def _give_way(client: Any, name: str, commit: str, before: Before) -> None:
    """Let `champion` name the newest of the releases that come after a commit, and raise Problem; nothing where there is none."""
    newer = [each for each in released(client, name) if each.tags[RELEASED] != commit and before(commit, each.tags[RELEASED])]  # fmt: skip
    if newer:
        newest = functools.reduce(lambda one, other: other if before(one.tags[RELEASED], other.tags[RELEASED]) else one, newer)  # fmt: skip
        if CHAMPION not in newest.aliases:
            client.set_registered_model_alias(name, CHAMPION, newest.version)
        refuse_older(name, [newest], commit, before)


def roll_back(
    store: Store, name: str, reason: str, tags: Mapping[str, str], before: Before, of: str = "", to: str | None = None
) -> Promoted:
    """Let `champion` name the version before it, or `to`, and mark what it named as rejected.

    of: the version that is taken back; raise Problem if it is not the champion, so that doing it twice goes back once. Ancestry does
    not count here: what was released after the target is taken for not released.
    """
    client = store.client
    current = named(client, name, CHAMPION)
    if current is None:
        raise Problem("there is no champion to go back from", name, "`python -m scripts.models` lists the versions")
    if of and of != current.version:
        fix = "nothing to do, if it was taken back already"
        raise Problem(f"version {of} is not the champion, version {current.version} is", name, fix)
    others = [each for each in versions(client, name) if each.version != current.version and REJECTED not in each.tags]
    once = {each.version: each.tags[PROMOTIONS].split()[-1] for each in others if PROMOTIONS in each.tags}
    last = max(once, key=lambda each: (once[each], int(each)), default="")
    target = to or (previous if (previous := current.tags.get(PREVIOUS, "")) in once else last)
    if target in {"", current.version}:
        fix = "name another with --to; `python -m scripts.models` lists them"
        raise Problem(f"there is no version to go back to from version {current.version}", name, fix)
    chosen = get(client, name, target)
    refuse_rejected(name, [chosen])
    client.set_model_version_tag(name, current.version, REJECTED, f"{now()} {' '.join(reason.split())}"[:5000])
    commit = chosen.tags.get(RELEASED) or chosen.tags["pawl.commit"]
    for each in versions(client, name):
        if each.version != chosen.version and RELEASED in each.tags and not before(each.tags[RELEASED], commit):
            client.delete_model_version_tag(name, each.version, RELEASED)
    _tag(client, name, chosen, {**tags, RELEASED: commit, PROMOTIONS: now()})
    client.set_registered_model_alias(name, CHAMPION, target)
    if CANDIDATE in current.aliases:
        client.delete_registered_model_alias(name, CANDIDATE)
    return Promoted(target, current.version)


def clear(store: Store, name: str, version: str) -> None:
    """Let a version that was rejected be promoted again."""
    if REJECTED not in get(store.client, name, version).tags:
        raise Problem(f"version {version} is not rejected", name, "nothing to do")
    store.client.delete_model_version_tag(name, version, REJECTED)


def versions(client: Any, name: str) -> list[Any]:
    """Return every version as an mlflow.entities.model_registry.ModelVersion with its aliases, the first first; none if nothing is registered."""
    from mlflow.exceptions import MlflowException

    try:
        aliases: Mapping[str, str] = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    for each in found:  # a search leaves the aliases out, and an embedded store tells numbers
        each._version = str(each.version)  # noqa: SLF001 - no public way
        each._aliases = sorted(alias for alias, version in aliases.items() if str(version) == each.version)  # noqa: SLF001 - same
    return sorted((each for each in found if each.status == "READY"), key=lambda each: int(each.version))


def of_digest(client: Any, name: str, digest: str) -> list[Any]:
    """Return the versions of a bundle, the first first."""
    return [each for each in versions(client, name) if each.tags.get("pawl.digest") == digest]


def get(client: Any, name: str, version: str) -> Any:
    """Return a version; raise Problem if there is none of this number."""
    for each in versions(client, name):
        if each.version == version:
            return each
    raise Problem(f"there is no version {version} of {name}", "the registry", "`python -m scripts.models` lists them")


def named(client: Any, name: str, alias: str) -> Any:
    """Return the version that an alias names; None if there is none."""
    return next((each for each in versions(client, name) if alias in each.aliases), None)


def released(client: Any, name: str) -> list[Any]:
    """Return the versions that were released and not taken back."""
    return [each for each in versions(client, name) if RELEASED in each.tags and REJECTED not in each.tags]


def refuse_rejected(name: str, found: Sequence[Any]) -> None:
    """Raise Problem if one of these versions was rejected."""
    for each in found:
        if REJECTED in each.tags:
            fix = f"a change that makes another model; or, if it is good after all: python -m scripts.promote --clear {each.version}"
            what = f"this model is version {each.version}, which was taken back: {each.tags[REJECTED]}"
            raise Problem(what, name, fix)


def refuse_older(name: str, found: Sequence[Any], commit: str, before: Before) -> None:
    """Raise Problem if one of these versions was released from a commit that this one does not come after."""
    for each in found:
        if not before(each.tags[RELEASED], commit):
            what = f"version {each.version} was released from {each.tags[RELEASED][:7]}, and {commit[:7]} does not come after that"
            fix = "nothing to do where a later release has overtaken this one; else release a commit that contains it"
            raise Problem(what, name, fix)


def download(store: Store, name: str, version: str, folder: Path) -> Path:
    """Return where the bundle of a version now lies."""
    get(store.client, name, version)
    return store.download(store.client.get_model_version_download_uri(name, version), "data/bundle", folder)


def now() -> str:
    """Return the time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _older(commit: str, other: str, before: Before) -> bool:
    """Say whether a commit is known to come before another."""
    try:
        return before(commit, other) and not before(other, commit)
    except Problem:  # one of them is not in this checkout
        return False


def _make(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{name}'", max_results=1):
        return
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tag(client: Any, name: str, version: Any, tags: Mapping[str, str]) -> None:
    """Write the tags that differ; those of MANY gain a word."""
    for key, value in tags.items():
        there = version.tags.get(key, "")
        if key in MANY:
            words = list(dict.fromkeys([*there.split(), value]))
            value = " ".join(words[-60:])  # noqa: PLW2901 - a tag holds 5,000 characters
        if value and value != there:
            client.set_model_version_tag(name, version.version, key, value)
