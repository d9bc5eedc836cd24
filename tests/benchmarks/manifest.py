"""A data set of a billion examples in 100,000 shards: what opening it costs, and finding an example in it.

The shards are real files without content (sparse), since their sizes are checked when the data set is opened. Each
measurement is the median over fresh processes.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from streamtrain.shards import Field, Manifest, Segment, Shard, ShardList, Split
from streamtrain.shards.manifest import write_manifest
from streamtrain.shards.shard_list import shard_name
from tests.benchmarks.measuring import report, wants_json

SHARDS, EXAMPLES_EACH, SHARD_BYTES, BLOCK = 100_000, 10_000, 8_192_000, 1024
PROCESSES = 5

CHILD = """
import json, random, resource, sys, time
from pathlib import Path
from streamtrain.order import Order, passes_of
from streamtrain.shards import read_manifest
from streamtrain.values import Position

folder, examples = Path(sys.argv[1]), int(sys.argv[2])
started = time.perf_counter()
manifest = read_manifest(folder)
opened = time.perf_counter() - started
shards = manifest.splits["train"].shards
assert manifest.examples == examples
order, passes = Order(examples, 64, 1024), passes_of("examples", examples, [], 1)
seeks = []
for seed in range(50):
    step = random.Random(seed).randrange(order.steps)
    started = time.perf_counter()
    parts = order.minibatch(Position(3, step)).parts
    for part in parts[:8]:
        for number in passes.stored(3, part.start, part.stop).each()[:1].tolist():
            index = shards.holding(number)
            assert shards.start(index) <= number < shards.start(index + 1) and shards[index].file
    seeks.append(time.perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"open": opened, "rss": peak, "seek": 1000 * sorted(seeks)[len(seeks) // 2]}))
"""


def write(folder: Path, shards: int) -> None:
    (folder / "train").mkdir(parents=True)
    listed = ShardList()
    for number in range(shards):
        name, first = shard_name("train", number), number * EXAMPLES_EACH
        with (folder / name).open("wb") as file:
            os.ftruncate(file.fileno(), SHARD_BYTES)
        last = first + EXAMPLES_EACH - 1
        listed.append(Shard(name, EXAMPLES_EACH, SHARD_BYTES, f"{number:064x}", f"{first:010d}", f"{last:010d}"))
    examples = listed.examples
    fields = (Field("image", "image.npy", "uint8", (28, 28)), Field("label", "label.npy", "int64", (), 0, 9))
    segments = (Segment({"train": examples}, 1, "synthetic"),)
    write_manifest(folder, Manifest(fields, {"train": Split(listed)}, "uniform", segments, block=BLOCK))


def measured(folder: Path, shards: int) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(folder), str(shards * EXAMPLES_EACH)]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(PROCESSES)
    ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    as_json = wants_json(__doc__)
    root = Path(tempfile.mkdtemp(prefix="streamtrain-manifest-"))
    try:
        write(root / "small", SHARDS // 100)
        write(root / "large", SHARDS)
        small, large = measured(root / "small", SHARDS // 100), measured(root / "large", SHARDS)
    finally:
        shutil.rmtree(root)
    figures = {f"{name}, 10^7 examples": value for name, value in small.items()}
    figures |= {f"{name}, 10^9 examples": value for name, value in large.items()}
    ratios = {"open_seconds_1e9": large["open"], "rss_mb_1e9": large["rss"], "seek_ms_1e9": large["seek"]}
    report(
        "Opening and seeking a billion examples: seconds, MB of the whole process, ms", figures, ratios, as_json=as_json
    )


if __name__ == "__main__":
    main()
