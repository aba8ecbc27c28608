"""List the registry's versions: verdict, aliases, when champion, where each runs.

python -m scripts.models          [--json]

Exit code: 0 done, 2 wrong input, 3 the registry did not answer.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pawl import registry, tracking
from pawl.ledger import Ledger, Release
from pawl.report import text
from scripts import cli, github


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """List."""
    parser = cli.parser("models", __doc__)
    parser.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(argv)
    releases = Ledger().releases()
    with tracking.store() as store:
        versions = registry.versions(store.client, github.project())
        found = [row(each, terms(versions, releases), releases) for each in reversed(versions)]
        where = store.shown
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    nothing = f"has no version in {where}: `make run` registers one"
    print(github.project(), f"in {where}\n" if found else nothing)
    for each in found:
        aliases, verdict = ", ".join(each["aliases"]) or "-", each["verdict"]
        said = f"{text.short(each['commit']):<8} {text.SYMBOLS.get(verdict, '?')} {verdict:<12} {aliases:<20}"
        print(f"  {each['version']:>3}  {said} {each['digest'][:19]}")
        lines = [f"champion {since} to {until or 'now'}" for since, until in each["champion"]]
        lines += [f"rejected {each['rejected']}"] if each["rejected"] else []
        lines += [f"image {image}" for image in each["images"]]
        lines += [f"runs in {each['environment']}"] if each["environment"] else []
        print("".join(f"       {line}\n" for line in lines), end="")
    return 0


def terms(versions: Sequence[Any], releases: Sequence[Release]) -> list[tuple[str, str, str, str]]:
    """Return (version, digest, champion since, until) from the ledger's releases, or where there are none from the registry's tags."""
    begun = [(each.made, each.version, each.digest) for each in reversed(releases)] or [
        (made, each.version, each.tags.get("pawl.digest", ""))
        for each in sorted(versions, key=lambda each: registry.CHAMPION in each.aliases)  # of one second: it came last
        for made in each.tags.get(registry.PROMOTIONS, "").split()
    ]
    begun.sort(key=lambda each: each[0])
    ends = [*(made for made, *_ in begun[1:]), ""][: len(begun)]
    return [(version, digest, made, end) for (made, version, digest), end in zip(begun, ends, strict=True)]


def row(version: Any, champions: Sequence[tuple[str, str, str, str]], releases: Sequence[Release]) -> dict[str, Any]:
    """Return what is known of a version."""
    tags, number = version.tags, version.version
    mine = (number, tags.get("pawl.digest", ""))
    spans = [(since, until) for other, digest, since, until in champions if (other, digest) == mine]
    return {
        "version": number,
        "commit": tags.get("pawl.commit", "unknown"),
        "verdict": tags.get("pawl.verdict", "unknown"),
        "aliases": version.aliases,
        "digest": tags.get("pawl.digest", ""),
        "champion": spans,
        "rejected": tags.get(registry.REJECTED, ""),
        "images": tags.get("pawl.images", "").split(),
        "environment": releases[0].environment if releases and releases[0].version == number else "",
    }


if __name__ == "__main__":
    sys.exit(main())
