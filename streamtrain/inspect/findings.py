"""`streamtrain inspect --lint`: the findings in foreign shards, by kind, with what each reader makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from streamtrain.errors import ConfigError, complaint
from streamtrain.shards import FAULTS, Finding, lint
from streamtrain.store import masked
from streamtrain.stream.fetch.unpacked import data_folder

SHOWN = 10
"""Findings of one kind that are shown as text."""


def linted(url: str) -> dict[str, Any]:
    """All findings as JSON's types: those of one kind together, those that are refused first.

    Raises:
        DataError: no shards, or one cannot be opened.
        ConfigError: a URL; what is looked for are bytes that no manifest vouches for.
    """
    folder = data_folder(url)
    if folder is None:
        do = "copy the shards to this machine first"
        raise ConfigError(complaint("inspect --lint", expected="a folder", found=masked(url), do=do))
    by_kind: dict[str, list[Finding]] = {}
    for finding in lint(folder):
        by_kind.setdefault(finding.kind, []).append(finding)
    kinds = sorted((kind for kind in FAULTS if kind in by_kind), key=lambda kind: not FAULTS[kind].refused)
    return {
        "folder": url,
        "refused": sum(len(by_kind[kind]) for kind in kinds if FAULTS[kind].refused),
        "noted": sum(len(by_kind[kind]) for kind in kinds if not FAULTS[kind].refused),
        "findings": [
            {
                "kind": kind,
                **dataclasses.asdict(FAULTS[kind]),
                "places": [
                    {"shard": each.shard, "key": each.key, "offset": each.offset, "found": each.found}
                    for each in by_kind[kind]
                ],
            }
            for kind in kinds
        ],
    }


def as_text(found: Mapping[str, Any]) -> str:
    """The same as text; of each kind the first places only."""
    refused = f"{found['refused']:,} findings for which the data set is refused, {found['noted']:,} that are only noted"
    lines = [f"{found['folder']}: {refused if found['findings'] else 'nothing that readers would take differently'}"]
    for fault in found["findings"]:
        places = fault["places"]
        lines += [
            "",
            f"{fault['kind']} ({'refused' if fault['refused'] else 'noted'}, {len(places):,}): {fault['what']}",
        ]
        lines += [f"  {reader}: {does}" for reader, does in fault["readers"].items()]
        lines += [f"  - {_place(place)}" for place in places[:SHOWN]]
        if len(places) > SHOWN:
            lines.append(f"  … and {len(places) - SHOWN:,} more (--json)")
    return "\n".join(lines)


def _place(place: Mapping[str, Any]) -> str:
    key = "" if place["key"] is None else f", {place['key']!r}"
    offset = "" if place["offset"] is None else f", at byte {place['offset']}"
    return f"{place['shard']}{key}{offset}: {place['found']}"
