"""A million JPEGs in an S3 server, streamed through a cache of a twentieth of their bytes.

    python -m tests.benchmarks.pictures [--json] [--examples 1000000] [--folder /var/tmp]

JPEGs of 64×64 pixels, each with its number in it, in foreign WebDataset tars; packed by all cores into some 300 shards,
which nginx gives to S3's clients as in `fetch`. They are read and decoded in minibatches of 256, from an empty cache,
and from the folder itself, which a process of its own does each. The folder needs some 4 kB an example.

Checked: every picture comes once, with its label. ``s3_vs_folder`` are examples/s; ``cache_bytes_vs_bound`` is the most
that the cache held, over what it may; ``fetched_vs_stored`` bytes fetched over those of the shards.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

import streamtrain as st
from tests.benchmarks.fetch import memory_of_this_process
from tests.benchmarks.measuring import report
from tests.support.caches import bytes_in
from tests.support.servers import nginx

SIDE, BLOCK = 64, 8
"""Pixels; those of a block that is one bit."""
BITS = (SIDE // BLOCK) ** 2 // 2
"""Of the number: the upper half of a picture."""
IN_A_TAR, BATCH, SHARDS, PART = 10_000, 256, 400, 20
WEIGHTS = 1 << np.arange(BITS, dtype=np.int64)


def write_tars(folder: Path, examples: int) -> None:
    """Tars of so many pictures in all, by as many processes as there are cores."""
    folder.mkdir()
    starts = range(0, examples, IN_A_TAR)
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.starmap(_write_tar, [(folder, start, min(start + IN_A_TAR, examples)) for start in starts])


def _write_tar(folder: Path, start: int, stop: int) -> None:
    generator = np.random.default_rng(start)
    with tarfile.open(folder / f"{start:09d}.tar", "w") as tar:
        for number in range(start, stop):
            members = {"jpg": simplejpeg.encode_jpeg(picture(number, generator)), "cls": str(number % 10).encode()}
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def picture(number: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Shape (64, 64, 3): the number's bits as black and white blocks, below them noise of low frequency."""
    bits = ((number >> np.arange(BITS)) & 1).astype(np.uint8) * 255
    blocks = np.concatenate([bits, generator.integers(0, 256, BITS).astype(np.uint8)]).reshape(-1, SIDE // BLOCK)
    grey = np.repeat(np.repeat(blocks, BLOCK, 0), BLOCK, 1)
    return np.repeat(grey[:, :, None], 3, 2)


def numbers_in(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What is written in them: (pictures, 64, 64, 3) -> (pictures,)."""
    middles = pictures[:, BLOCK // 2 : SIDE // 2 : BLOCK, BLOCK // 2 :: BLOCK, 0]
    found: NDArray[np.int64] = (middles.reshape(len(pictures), -1) > 127) @ WEIGHTS
    return found


def read(url: str, cache: Path, limit: int, examples: int) -> dict[str, float]:
    """All of them once."""
    seen = np.zeros(examples, bool)
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            with contextlib.suppress(FileNotFoundError):  # there is no cache yet, or never
                most.append(bytes_in(cache))

    before = memory_of_this_process("VmRSS")
    looker = threading.Thread(target=look)
    looker.start()
    began = time.perf_counter()
    data = st.open(url, cache=cache, cache_bytes=limit)
    for batch in data.batches(BATCH, ahead=8):
        numbers = numbers_in(batch["jpg"].numpy())
        assert not seen[numbers].any() and np.array_equal(numbers % 10, batch["cls"].numpy())
        seen[numbers] = True
    seconds = time.perf_counter() - began
    ended.set()
    looker.join()
    assert seen.all()
    return {
        "examples/s": examples / seconds,
        "cache": max(most),
        "fetched": data.reader.loading.bytes_fetched,
        "rss": memory_of_this_process("VmHWM") - before,
    }


def measure(work: Path, examples: int) -> tuple[dict[str, float], dict[str, float]]:
    write_tars(work / "tars", examples)
    source, served = work / "tars", work / "served" / "pictures"
    size = sum(file.stat().st_size for file in source.iterdir())
    began = time.perf_counter()
    options = st.PackOptions(splits=(1, 0, 0), seed=1, shard_bytes=size // SHARDS)
    st.pack(str(source / "*.tar"), served, options)
    packing = time.perf_counter() - began
    stored = sum(file.stat().st_size for file in served.rglob("*.tar"))
    limit = stored // PART
    own = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
    with nginx(work / "served", work / "nginx") as http, own as pool:
        far = pool.apply(_read_far, (http, work / "cache", limit, examples))
        near = pool.apply(read, (str(served), work / "none", limit, examples))
    figures = {
        "stored, MB": stored / 1e6,
        "packing, examples/s": examples / packing,
        "packing, MB/s": size / 1e6 / packing,
        "from S3, examples/s": far["examples/s"],
        "from the folder, examples/s": near["examples/s"],
        "cache, most, MB": far["cache"] / 1e6,
        "resident memory more than before, MB": far["rss"] / 1e6,
    }
    ratios = {
        "s3_vs_folder": far["examples/s"] / near["examples/s"],
        "cache_bytes_vs_bound": far["cache"] / limit,
        "fetched_vs_stored": far["fetched"] / stored,
    }
    return figures, ratios


def _read_far(http: str, cache: Path, limit: int, examples: int) -> dict[str, float]:
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = http
    return read("s3://pictures", cache, limit, examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--examples", type=int, default=10**6)
    parser.add_argument("--folder", type=Path, help="where the data go; by default where temporary files do")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamtrain-pictures-", dir=given.folder) as folder:
        figures, ratios = measure(Path(folder), given.examples)
    report(f"pictures: {given.examples:,} JPEGs of 64×64", figures, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
