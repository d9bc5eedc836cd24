"""How fast shards come by HTTP and by S3's clients, and in how little room a large data set streams.

    python -m tests.benchmarks.fetch [--json]

Ratios, medians of alternating repetitions on one machine, all servers on loopback. nginx is also whom S3's clients ask:
to get an object, signed or not, is a plain request for a file, and a server in Python would be what is measured.

- ``nginx_vs_plain_download``, ``s3_vs_plain_download``: bytes/s of all shards held one after the other
  from an empty cache, SHA-256 checked, over those of `urllib` writing the same bytes to a file, unchecked.
- ``s3_vs_best_client``: the same over the best of boto3, obstore and s3torchconnector, each of which fetches the same
  shards whole, sums them up with SHA-256 and writes them, one after the other or as many at once as ours.
- ``nginx_with_faults_vs_without``: the same through a proxy that spoils `FAULTY` of the answers, over the
  same proxy spoiling none.
- ``cache_bytes_vs_bound``, ``rss_vs_bound``: the most that the cache and the resident memory of the reading
  process ever were while a data set ten times as large as the cache was read, over their bounds.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Shard, fetch_manifest
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import CHUNK, WINDOW, Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import AHEAD_THREADS, FetchedFiles
from streamtrain.stream.fetch.shard_files import ShardRows
from streamtrain.stream.reader import Reader
from tests.benchmarks.s3_clients import clients
from tests.support.caches import bytes_in
from tests.support.faults import Faults, proxy
from tests.support.servers import nginx

EXAMPLES, SHAPE = 19_200, (128, 128, 3)
"""944 MB: to begin with a store, and to sign, takes each client some hundredths of a second."""
LARGE_SHARD, SMALL_SHARD = 16 << 20, 2 << 20
REPETITIONS = 5
FAULTY = 0.1
"""Of answers of `CHUNK` bytes."""
LANES, PART = 4, 16
POLICY = RetryPolicy(first=0.05, stall=1.0, quiet=0.2)

OVERHEAD = 48 << 20
"""Memory for connections, their buffers, and what the allocator keeps; nothing that grows with the data."""


def rss_bound(shard: int, example: int) -> int:
    """Resident bytes that streaming may add to those of the process before it began.

    The held shards, whose mapped pages count; for each thread that fetches, and the reader itself, a
    window of requests, each of which is there twice while the client joins its pieces; two parts of a
    minibatch, the one read and the one before; `OVERHEAD`.
    """
    held = (LANES + 1) * shard
    on_their_way = (AHEAD_THREADS + 1) * WINDOW * 2 * min(CHUNK, shard)
    return held + on_their_way + 2 * PART * example + OVERHEAD


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures fetching; see the module's docstring.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as work:
        found = measure(Path(work))
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for part in ("figures", "ratios"):
        for name, value in found[part].items():
            print(f"{name:<32}{value:>10.3f}")


def measure(work: Path) -> dict[str, dict[str, float]]:
    large, small = work / "served" / "large", work / "served" / "small"
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *SHAPE), np.uint8)
    np.savez(work / "images.npz", image=images, label=np.arange(EXAMPLES) % 10)
    del images
    for folder, size in ((large, LARGE_SHARD), (small, SMALL_SHARD)):
        pack(str(work / "images.npz"), folder, PackOptions(splits=(1, 0, 0), seed=1, shard_bytes=size))
    with nginx(work / "served", work / "nginx") as http:
        os.environ["AWS_ENDPOINT_URL"] = http
        figures = _throughput(work, http)
        best = max(rate for name, rate in figures.items() if name.endswith("at_once_mb_s"))
        ratios = {
            "nginx_vs_plain_download": figures["nginx_mb_s"] / figures["nginx_plain_mb_s"],
            "s3_vs_plain_download": figures["s3_mb_s"] / figures["s3_plain_mb_s"],
            "s3_vs_best_client": figures["s3_mb_s"] / best,
            "nginx_with_faults_vs_without": figures["nginx_with_faults_mb_s"] / figures["nginx_through_proxy_mb_s"],
        }
        streamed = _in_child(_stream, f"{http}/small", work / "streamed")
    figures |= {"stream_examples_s": streamed["examples_s"], "stream_rss_mb": streamed["rss"] / 1e6}
    figures |= {"stream_cache_mb": streamed["cache"] / 1e6, "stream_data_mb": streamed["data"] / 1e6}
    ratios |= {
        "cache_bytes_vs_bound": streamed["cache"] / streamed["cache_bound"],
        "rss_vs_bound": streamed["rss"] / streamed["rss_bound"],
    }
    return {"figures": figures, "ratios": ratios}


def _throughput(work: Path, http: str) -> dict[str, float]:
    """MB/s of every way, medians of repetitions that take turns; each has its client, with a session, beforehand."""
    import boto3

    shards = fetch_manifest(Store(f"{http}/large")).splits["train"].shards
    sizes = {shard.file: shard.bytes for shard in shards}
    client = boto3.client("s3", endpoint_url=http)
    others = clients(http, "large")

    def signed(name: str) -> str:
        return str(client.generate_presigned_url("get_object", {"Bucket": "large", "Key": name}))

    with _faulty(http, 0.0) as passed_on, _faulty(http, FAULTY) as spoiled:
        held = functools.partial(_held, shards, work / "cache")
        ways: dict[str, Callable[[], Callable[[], int]]] = {
            "nginx_plain": lambda: _plain({f"{http}/large/{name}": sizes[name] for name in sizes}, work / "copy"),
            "nginx": lambda: held(f"{http}/large"),
            "s3_plain": lambda: _plain({signed(name): sizes[name] for name in sizes}, work / "copy"),
            "s3": lambda: held("s3://large"),
            **{name: lambda way=way: functools.partial(way, sizes, work) for name, way in others.items()},
            "nginx_through_proxy": lambda: held(f"{passed_on}/large"),
            "nginx_with_faults": lambda: held(f"{spoiled}/large"),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for repetition in range(REPETITIONS + 1):  # the first warms up, and is not counted
            for name, way in ways.items():
                fetch = way()
                began = time.perf_counter()
                size = fetch()
                if repetition:
                    speeds[name].append(size / (time.perf_counter() - began) / 1e6)
    return {f"{name}_mb_s": statistics.median(values) for name, values in speeds.items()}


def _plain(sizes: dict[str, int], file: Path) -> Callable[[], int]:
    """Downloads URLs, whose sizes are known, one after the other."""

    def fetch() -> int:
        for url, size in sizes.items():
            with urllib.request.urlopen(url) as answer, file.open("wb") as opened:
                shutil.copyfileobj(answer, opened, 1 << 20)
            assert file.stat().st_size == size
        return sum(sizes.values())

    return fetch


def _held(shards: Sequence[Shard], cache: Path, url: str) -> Callable[[], int]:
    """Holds shards one after the other, the next two asked for ahead."""
    store = Store(url, POLICY)
    store.read_whole("manifest.json")

    def fetch() -> int:
        files = FetchedFiles(store, Cache(cache, 1 << 30), keep=False, ahead_bytes=4 * LARGE_SHARD)
        for number, shard in enumerate(shards):
            files.ahead([ShardRows.all_of(each) for each in shards[number : number + 3]])
            assert files.hold(ShardRows.all_of(shard)).stat().st_size == shard.bytes
            files.release(ShardRows.all_of(shard))
        files.close()
        return sum(shard.bytes for shard in shards)

    return fetch


def _stream(url: str, cache: Path) -> dict[str, float]:
    """Reads all lanes to their ends, in turn."""
    manifest = fetch_manifest(Store(url))
    shards = manifest.splits["train"].shards
    data, largest = sum(shard.bytes for shard in shards), max(shard.bytes for shard in shards)
    limit, before = data // 10, memory_of_this_process("VmRSS")
    files = FetchedFiles(
        Store(url), Cache(cache, limit), most_held=LANES + 1, ahead_bytes=limit - (LANES + 1) * largest
    )
    reader = Reader(files, manifest, "train", ("image", "label"))
    most, seen = 0, 0
    began = time.perf_counter()
    length = len(reader) // LANES
    for offset in range(0, length, PART):
        for lane in range(LANES):
            first = lane * length + offset
            seen += len(reader.read(first, min(first + PART, (lane + 1) * length))["label"])
        most = max(most, bytes_in(cache))
    assert seen == LANES * length
    seconds = time.perf_counter() - began
    files.close()
    return {
        "examples_s": seen / seconds,
        "data": data,
        "cache": most,
        "cache_bound": limit,
        "rss": memory_of_this_process("VmHWM"),
        "rss_bound": before + rss_bound(largest, int(np.prod(SHAPE))),
    }


def memory_of_this_process(field: str) -> int:
    """Bytes, of the kernel's account of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _in_child(work: Callable[[str, Path], dict[str, float]], url: str, folder: Path) -> dict[str, float]:
    """Runs it in a new process, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (url, folder))


@contextlib.contextmanager
def _faulty(upstream: str, rate: float) -> Iterator[str]:
    """A proxy in a process of its own, which takes no time from the one that is measured."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(upstream, rate, theirs), daemon=True)
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join()


def _serve(upstream: str, rate: float, told: Connection) -> None:
    with proxy(upstream, Faults(rate=rate)) as url:
        told.send(url)
        told.recv()


if __name__ == "__main__":
    main()
