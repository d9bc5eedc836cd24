"""JPEG members of other people's tars, as bytes in their order: ours, beside readers in C++ and Rust.

An index of each shard is made before, where a reader has one. Each gives `bytes` of its own.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import streamtrain as st
from tests.benchmarks.measuring import on_standard_error

SHARDS, TIMES = 4, 10


def write_foreign(root: Path, files: list[bytes]) -> int:
    """Tars as GNU tar writes them, of every file `TIMES` times with a class; the bytes of all JPEGs."""
    files = files * TIMES
    (root / "train").mkdir(parents=True)
    for shard in range(SHARDS):
        with tarfile.open(root / "train" / f"{shard:06d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for number, data in enumerate(files[shard::SHARDS]):
                for extension, content in (("jpg", data), ("cls", b"%d" % (number % 10))):
                    entry = tarfile.TarInfo(f"{shard}_{number:06d}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return sum(map(len, files))


def foreign_contenders(root: Path, files: list[bytes]) -> dict[str, Callable[[], int]]:
    """Ways to read them all; each answers with the number of JPEGs, and was compared with the source before."""
    import spdl.io
    import webshart

    size = write_foreign(root / "foreign", files)
    shards = sorted((root / "foreign" / "train").glob("*.tar"))
    examples = st.open(root / "foreign")
    (root / "webshart").mkdir()
    with on_standard_error():
        webshart.MetadataExtractor().extract_metadata(str(shards[0].parent), str(root / "webshart"), max_workers=1)
    known = webshart.discover_dataset(str(shards[0].parent), metadata=str(root / "webshart"))

    def ours() -> Iterator[bytes]:
        return (sample["jpg"] for sample in examples.samples())

    def by_spdl() -> Iterator[bytes]:
        for shard in shards:
            with shard.open("rb") as opened:
                yield from (bytes(data) for name, data in spdl.io.iter_tarfile(opened) if name.endswith(".jpg"))

    def by_webshart() -> Iterator[bytes]:
        entries = webshart.TarDataLoader(known, load_file_data=True)
        return (bytes(entry.data) for entry in entries if entry.path.endswith(".jpg"))

    contenders = {"foreign, ours": ours, "foreign, spdl": by_spdl, "foreign, webshart": by_webshart}
    expected = [data for shard in range(SHARDS) for data in (files * TIMES)[shard::SHARDS]]
    for name, contender in contenders.items():
        assert list(contender()) == expected and sum(map(len, expected)) == size, name
    return {name: lambda read=read: sum(1 for _ in read()) for name, read in contenders.items()}  # type: ignore[misc]
