"""All examples permuted from a store, in a cache of a tenth of the data: what is fetched, and what is waited.

    python -m tests.benchmarks.permuted [--json]

Minibatches of `BATCH` pictures go to a loop that computes for `COMPUTE` seconds at each, read ahead by a thread. From
an empty cache first a pass in the stored order, then one with all examples permuted. From nginx: the S3 server of the
tests copies a whole object for every range that it is asked for, and shows nothing but that. Ratios:

- ``permuted_fetched_vs_best``: bytes fetched in the permuted pass over those of the best possible eviction (Belady's,
  by a simulation of its own that looks through the whole pass) of the same parts in all of the cache's bytes.
- ``permuted_waiting``, ``plain_waiting``: part of a pass's time in which the loop waits for its next minibatch, from
  the second on: the first fills what is read ahead.

Figures: examples/s that reading alone gives, in either order, and bytes fetched over those of the examples.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import streamtrain as st
from streamtrain.order import passes_of
from streamtrain.store.remote import Store
from streamtrain.stream.columns.planned_rows import Units, units_of
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from tests.benchmarks.measuring import report, wants_json
from tests.support.servers import nginx

EXAMPLES, SHAPE = 12_800, (128, 128, 3)
"""630 MB."""
SHARD_BYTES = 17 << 20
BATCH, COMPUTE, SEED, AHEAD = 64, 0.1, 5, 8


def measure(work: Path) -> tuple[dict[str, float], dict[str, float]]:
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *SHAPE), np.uint8)
    np.savez(work / "images.npz", image=images, label=np.arange(EXAMPLES) % 10)
    served = work / "served"
    st.pack(work / "images.npz", served, st.PackOptions(splits=(1, 0, 0), seed=1, shard_bytes=SHARD_BYTES))
    (work / "images.npz").unlink()
    with nginx(served, work / "nginx") as url:
        found = _passes(url, work / "cache")
        best = _best(url, work / "none", found["limit"])
    ratios = {
        "permuted_fetched_vs_best": found["fetched"] / best,
        "permuted_waiting": found["permuted"],
        "plain_waiting": found["plain"],
    }
    figures = {
        "fetched over the examples' bytes": found["fetched"] / (EXAMPLES * float(np.prod(SHAPE))),
        "permuted, examples/s": found["rate"],
    }
    return figures, ratios


def _passes(url: str, cache: Path) -> dict[str, float]:
    """Both passes with a loop that computes, then a part of one that does not."""
    data = EXAMPLES * int(np.prod(SHAPE))
    examples = st.open(url, cache=cache, cache_bytes=data // 10)
    batches = examples.batches(BATCH, reshuffle="examples", seed=SEED, ahead=AHEAD)
    plain = _waiting(batches, COMPUTE)
    before = examples.reader.loading.bytes_fetched
    permuted = _waiting(batches, COMPUTE)
    fetched = examples.reader.loading.bytes_fetched - before
    began, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch["label"])
        if seen >= EXAMPLES // 4:
            break
    rate = seen / (time.perf_counter() - began)
    return {"plain": plain, "permuted": permuted, "fetched": fetched, "rate": rate, "limit": data // 10}


def _waiting(batches: Iterable[Any], compute: float) -> float:
    """Part of the time from the second minibatch on that passes in waiting."""
    coming = iter(batches)
    next(coming)
    time.sleep(AHEAD * compute)
    began, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        if next(coming, None) is None:
            return waited / (time.perf_counter() - began)
        waited += time.perf_counter() - asked
        time.sleep(compute)


def _best(url: str, cache: Path, room: float) -> float:
    """Bytes that the permuted pass costs with Belady's eviction of the same parts."""
    files = FetchedFiles(Store(url), Cache(cache, 1 << 30))
    shards = st.open(url, cache=cache).manifest.splits["train"].shards
    units = units_of(files, shards)
    fetched = list(_fetched_bytes(files, shards, units))
    uses = list(_uses(units))
    coming: dict[int, list[int]] = {}
    for at in range(len(uses) - 1, -1, -1):
        coming.setdefault(uses[at], []).append(at)
    kept: dict[int, int] = {}
    used, total = 0, 0
    for unit in uses:
        coming[unit].pop()
        after = coming[unit][-1] if coming[unit] else len(uses)
        if unit not in kept:
            total += fetched[unit]
            used += int(units.sizes[unit])
        kept[unit] = after
        while used > room:
            out = max(kept, key=kept.__getitem__)
            used -= int(units.sizes[out])
            del kept[out]
    files.close()
    return total


def _fetched_bytes(files: FetchedFiles, shards: Any, units: Units) -> Iterator[int]:
    """Bytes of the pieces that each unit touches."""
    for unit, size in enumerate(units.sizes.tolist()):
        first, last = units.firsts[unit : unit + 2].tolist()
        number = shards.holding(first)
        index = files.index_of(shards[number])
        if index is None:
            yield size
        else:
            begin, stop = index.begin(first - shards.start(number)), index.begin(last - shards.start(number))
            yield min(-(-stop // index.piece) * index.piece, index.shard_bytes) - begin // index.piece * index.piece


def _uses(units: Units) -> Iterator[int]:
    passes = passes_of("examples", EXAMPLES, (), SEED)
    for start in range(0, EXAMPLES, BATCH):
        numbers = passes.stored(1, start, min(start + BATCH, EXAMPLES)).each()
        yield from np.unique(units.of(numbers)).tolist()


def main() -> None:
    as_json = wants_json(__doc__)
    with tempfile.TemporaryDirectory() as work:
        figures, ratios = measure(Path(work))
    report("All examples permuted, from a store", figures, ratios, as_json=as_json)


if __name__ == "__main__":
    main()
