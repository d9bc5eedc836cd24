"""`streamtrain inspect`: what a data set holds, whether it is whole, and the way of one example through a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from streamtrain.errors import ConfigError, complaint
from streamtrain.inspect.places import AllOrigins, reports_of
from streamtrain.job import CACHE_BYTES
from streamtrain.order import Order
from streamtrain.packing.report import as_text, parse_report
from streamtrain.shards import Manifest, verify
from streamtrain.store import masked
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache, cache_folder
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import ShardFiles, ShardRows
from streamtrain.stream.fetch.unpacked import data_folder
from streamtrain.stream.opening import open_dataset, shards_of
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays

SHOWN_CLASSES = 20


def inspect_dataset(
    url: str,
    *,
    verify_all: bool = False,
    key: str | None = None,
    lanes: int = 1,
    batch_size: int = 128,
    audited: int = 0,
) -> dict[str, Any]:
    """All figures that the command shows, as JSON's types.

    Args:
        url: the data set's folder, or a URL of it, whose shards are read through the host's cache.
        verify_all: read every shard and check its checksum; one that is in the cache was checked when it came.
        key: of an example to show and to follow through training with these lanes and this batch size.
        audited: training examples to test the stored order by; 0 for no audit.

    Raises:
        DataError: the data set is damaged. ConfigError: no such key.
    """
    manifest = open_dataset(url)
    files = _files(url)
    checksums = _verify_all(url, files, manifest) if verify_all else "not read (--verify)"
    origins = AllOrigins(url, manifest)
    split, number = _find(files, manifest, key, origins)
    reader = Reader(files, manifest, split, [f.name for f in manifest.fields])
    shard, row, its_key = reader.locate(number)
    found = {
        "folder": masked(url),
        "order": manifest.order,
        "seed": manifest.seed,
        "source": manifest.source,
        "label": manifest.label,
        "digest": manifest.digest,
        "fields": [dataclasses.asdict(field) for field in manifest.fields],
        "splits": {name: _split_figures(manifest, name) for name in manifest.splits},
        "checksums": checksums,
        "packed": [dataclasses.asdict(report) for report in reports_of(url, manifest)],
        "example": {
            "key": its_key,
            "split": split,
            "shard": shard.file,
            "row": row,
            "source": None if key is None else origins.place(split, number),
            "fields": _shown(reader.read(number, number + 1)),
        },
    }
    if audited:
        from streamtrain.inspect.audit import audit

        found["audit"] = audit(files, manifest, most_examples=audited, batch_size=batch_size).summary()
    if key is not None:
        found["way"] = way_of(manifest, origins, split, number, lanes, batch_size)
    return found


def way_of(
    manifest: Manifest, origins: AllOrigins, split: str, number: int, lanes: int, batch_size: int
) -> dict[str, Any]:
    """Where example ``number`` of a split comes from and goes to: all of it arithmetic, but for its place."""
    way: dict[str, Any] = {"number_in_split": number}
    found = origins.of(split, number)
    if found is not None:
        way |= {"segment": found.segment, "stored_order": found.stored, "source_example": found.number}
        way |= {} if found.place is None else {"source": found.place}
    if split == "train":
        try:
            order = Order(manifest.splits[split].examples, lanes, batch_size)
        except ValueError as error:
            raise ConfigError(f"--batch-size and --lanes: {error}; change one of them") from None
        lane = next(lane for lane in order.ranges if lane.start <= number < lane.stop)
        step, within = divmod(number - lane.start, batch_size // lanes)
        way |= {"lane": lane.index, "step": step, "row_of_lane_part": within, "steps_of_a_pass": order.steps}
    return way


def report(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{found['folder']}  stored order: {found['order']}, seed {found['seed']}, from {found['source']}",
        f"digest {found['digest'][:16]}…  checksums {found['checksums']}",
        "",
        f"{'field':<16}{'member':<16}{'dtype':<10}{'shape':<18}values",
    ]
    for field in found["fields"]:
        shape = "varies" if field["shape"] is None else "×".join(map(str, field["shape"])) or "scalar"
        values = "" if field["low"] is None else f"{field['low']} … {field['high']}"
        if field["images"]:
            values = ", ".join(f"{count:,} {kind}" for kind, count in field["images"]["kinds"].items())
        lines.append(
            f"{field['name']:<16}.{field['member']:<15}{field['dtype'] or '–':<10}{shape:<18}{values}".rstrip()
        )
    lines += ["", f"{'split':<12}{'examples':>12}{'shards':>8}{'MB':>10}   shard sizes, MB"]
    for name, split in found["splits"].items():
        sizes = f"{split['smallest_shard'] / 1e6:,.1f} … {split['largest_shard'] / 1e6:,.1f}"
        lines.append(f"{name:<12}{split['examples']:>12,}{split['shards']:>8,}{split['bytes'] / 1e6:>10,.1f}   {sizes}")
    lines += _class_lines(found)
    for packed in found["packed"]:
        lines += ["", f"from {packed['source']}:", as_text(parse_report(packed))]
    example = found["example"]
    from_there = "" if example["source"] is None else f", from {example['source']}"
    place = f"{example['shard']}, row {example['row']}{from_there}"
    lines += ["", f"example {example['key']} of {example['split']}: {place}"]
    lines += [f"  {name}: {value}" for name, value in example["fields"].items()]
    if "audit" in found:
        from streamtrain.inspect.audit import report as audit_report

        lines += ["", audit_report(found["audit"])]
    if "way" in found:
        lines += ["its way:", *(f"  {name.replace('_', ' ')}: {value}" for name, value in found["way"].items())]
    return "\n".join(lines)


def _class_lines(found: dict[str, Any]) -> list[str]:
    splits = {name: split["class_counts"] for name, split in found["splits"].items() if split["class_counts"]}
    if not splits:
        return []
    values = sorted({value for counts in splits.values() for value in counts}, key=int)
    names = next((f["classes"] for f in found["fields"] if f["classes"] and f["name"] == found["label"]), ())
    lines = ["", f"{'class':<16}" + "".join(f"{name:>14}" for name in splits)]
    for value in values[:SHOWN_CLASSES]:
        label = f"{value} {names[int(value)]}" if 0 <= int(value) < len(names) else value
        shares = (f"{counts.get(value, 0) / sum(counts.values()):>14.2%}" for counts in splits.values())
        lines.append(f"{label:<16}" + "".join(shares))
    if len(values) > SHOWN_CLASSES:
        lines.append(f"… and {len(values) - SHOWN_CLASSES} more classes (--json)")
    return lines


def _split_figures(manifest: Manifest, name: str) -> dict[str, Any]:
    split = manifest.splits[name]
    sizes = [shard.bytes for shard in split.shards]
    return {
        "examples": split.examples,
        "shards": len(sizes),
        "bytes": sum(sizes),
        "smallest_shard": min(sizes, default=0),
        "largest_shard": max(sizes, default=0),
        "class_counts": {str(value): count for value, count in sorted(split.class_counts.items())},
    }


def _files(url: str) -> ShardFiles:
    cache = Cache(cache_folder(None), CACHE_BYTES)
    return shards_of(url, lambda: FetchedFiles(Store(url), cache, most_held=1), verify=False)


def _verify_all(url: str, files: ShardFiles, manifest: Manifest) -> str:
    """Reads every shard; what the checksums came to."""
    from tqdm import tqdm

    folder = data_folder(url)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in tqdm(shards, desc="verifying", unit=" shards", disable=None):
        if folder is None:
            files.hold(ShardRows.all_of(shard))
            files.release(ShardRows.all_of(shard))
        else:
            verify(folder, shard)
    return "verified" if all(shard.sha256 for shard in shards) else "none to verify; sizes are as the index has them"


def _find(files: ShardFiles, manifest: Manifest, key: str | None, origins: AllOrigins) -> tuple[str, int]:
    """Split and number of the example with this key, or from this place; the first example of all for ``None``."""
    for name, split in manifest.splits.items():
        if not split.examples:
            continue
        if key is None:
            return name, 0
        reader = Reader(files, manifest, name, ())
        number = next((n for n in range(len(reader)) if reader.locate(n)[2] == key), None)
        if number is not None:
            return name, number
    found = None if key is None else origins.find(key)
    if found is not None:
        return found
    expected = f"a key of {files.place}, or a place in its source, e.g. {origins.example_place!r}"
    do = "see inspect for one"
    raise ConfigError(complaint("--example", expected=expected, found=repr(key), do=do))


def _shown(arrays: Arrays) -> dict[str, str]:
    shown = {}
    for name, array in arrays.items():
        value = array[0]
        shown[name] = (
            f"{value.dtype} of shape {value.shape}, {value.min()} … {value.max()}"
            if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iufb"
            else str(value)[:100]
        )
    return shown
