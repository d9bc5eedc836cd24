"""`streamtrain pack` and `inspect`: data sets made and looked at."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from streamtrain.cli.flags import parse
from streamtrain.cli.interrupts import interrupts_held
from streamtrain.errors import ConfigError, DataError, complaint
from streamtrain.packing.options import PackOptions

PACK_EXAMPLES = """\
streamtrain pack photos/ data/photos --splits 0.8 0.1 0.1 --seed 1
streamtrain pack tables/ data/tables --tasks 8 --memory-bytes 8000000000      # over Ray
streamtrain pack newer.parquet data/tables --append --splits 1 0 0
streamtrain pack texts/ data/tokens --tokens 1024 --tokenizer tokenizer.json  # a folder of texts, or a table's column
"""


INSPECT_EXAMPLES = """\
streamtrain inspect data/mnist --verify
streamtrain inspect data/mnist --example 00042 --batch-size 64
streamtrain inspect data/mnist --audit                # is the order random, does held-out data leak into train
streamtrain inspect data/foreign --lint --json        # every place where readers of WebDataset shards differ
"""


@dataclass(frozen=True)
class PackArguments:
    """Shuffles raw data uniformly, splits it, and writes WebDataset shards and a manifest."""

    source: tyro.conf.Positional[str]
    """Folder of images, sounds or texts by class, .csv, .parquet, .arrow, .npz, .npy, WebDataset .tar, hf:NAME, or
    module:function."""
    dest: tyro.conf.Positional[Path]
    """Folder to make."""
    options: Annotated[PackOptions, tyro.conf.arg(name="")] = field(default_factory=PackOptions)
    append: bool = False
    """Add to the data set in DEST, as a new segment that is shuffled in itself."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class InspectArguments:
    """Shows what a data set holds, whether it is whole, and the way of one example through a run."""

    dest: tyro.conf.Positional[str]
    """The data set's folder, or its URL."""
    verify: bool = False
    """Read every shard and check its checksum; of a URL, as it comes into the cache."""
    lint: bool = False
    """List all that readers would take differently, and nothing else: for shards that `pack` did not write."""
    audit: bool = False
    """Test whether the stored order is shuffled, and look for duplicates in and across the splits."""
    audit_examples: int = 50_000
    """For --audit: training examples to look at, in evenly spread stretches where there are more."""
    example: str | None = None
    """Key of an example: show it, and where it goes in training."""
    batch_size: int = 128
    """For --example and --audit: the size of the minibatches."""
    lanes: int = 1
    """For --example: the number of lanes."""
    json: bool = False
    """Print as JSON."""

    def __post_init__(self) -> None:
        if self.audit_examples < 1:
            found = str(self.audit_examples)
            raise ConfigError(complaint("--audit-examples", expected="at least 1", found=found, do="raise it"))


def run_pack(words: Sequence[str]) -> None:
    """``streamtrain pack``."""
    with interrupts_held():
        from tqdm import tqdm

        from streamtrain.run.fleet.cluster.pack_tasks import append, pack

    given = parse(PackArguments, words, "streamtrain pack", PACK_EXAMPLES)
    bars: dict[str, tqdm[Any]] = {}

    def progress(phase: str, done: int, total: int | None) -> None:
        if phase not in bars:
            bars[phase] = tqdm(desc=phase, total=total, initial=done, unit=" examples", unit_scale=True, disable=None)
        bars[phase].update(done - bars[phase].n)
        if done == total:
            bars[phase].close()

    from streamtrain.packing.report import as_text, read_report, report_file

    make = append if given.append else pack
    with warnings.catch_warnings(record=True) as caught:  # a library's warning is said once, with how often it came
        warnings.simplefilter("always")
        manifest = make(given.source, given.dest, given.options, progress)
    said = Counter(f"{warning.category.__name__}: {_without_numbers(str(warning.message))}" for warning in caught)
    name = report_file(len(manifest.segments) - 1)
    packed = read_report((given.dest / name).read_bytes(), name)
    counts = {name: split.examples for name, split in manifest.splits.items()}
    shards = sum(len(split.shards) for split in manifest.splits.values())
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    if given.json:
        found = {"dest": str(given.dest), "examples": counts, "shards": shards, "bytes": size}
        print(json.dumps(found | {"report": dataclasses.asdict(packed), "warnings": dict(said)}))
    else:
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(as_text(packed), *(f"warned {times:,} times: {text}" for text, times in said.items()), sep="\n")
        print(f"{given.dest}: {manifest.examples:,} examples ({parts}) in {shards} shards, {size / 1e6:,.1f} MB")


def _without_numbers(message: str) -> str:
    """A warning's first line; equal ones then count together, whatever example they are about."""
    return re.sub(r"\d+", "…", message.strip().partition("\n")[0])


def run_inspect(words: Sequence[str]) -> None:
    """``streamtrain inspect``."""
    from streamtrain.inspect.card import inspect_dataset, report

    given = parse(InspectArguments, words, "streamtrain inspect", INSPECT_EXAMPLES)
    if given.lint:
        run_lint(given.dest, as_json=given.json)
        return
    found = inspect_dataset(
        given.dest,
        verify_all=given.verify,
        key=given.example,
        lanes=given.lanes,
        batch_size=given.batch_size,
        audited=given.audit_examples if given.audit else 0,
    )
    print(json.dumps(found, indent=1) if given.json else report(found))
    if given.audit and not found["audit"]["passed"]:
        sys.exit(DataError.exit_code)


def run_lint(place: str, *, as_json: bool) -> None:
    """``streamtrain inspect --lint``."""
    from streamtrain.inspect.findings import as_text, linted

    found = linted(place)
    print(json.dumps(found, indent=1) if as_json else as_text(found))
    if found["refused"]:
        sys.exit(DataError.exit_code)
