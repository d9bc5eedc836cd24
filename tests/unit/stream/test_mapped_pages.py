"""Pages of shards that were read in order do not stay in the process's memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest
from streamtrain.stream.columns import open_rows
from streamtrain.stream.columns.mapped_pages import WINDOW
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader

EXAMPLES = 60_000
SHARD_BYTES = 5 * WINDOW


def resident(folder: Path) -> int:
    """Bytes of this process's memory that are pages of files below a folder."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = str(folder) in line
        elif ours and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("pages")
    numbers = np.arange(EXAMPLES, dtype=np.int64)
    np.savez(folder / "raw.npz", x=np.repeat(numbers[:, None], 200, 1), label=numbers)
    options = PackOptions(splits=(1, 0, 0), shard_bytes=SHARD_BYTES)
    return folder / "data", pack(str(folder / "raw.npz"), folder / "data", options)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_reader_keeps_no_pages_of_what_it_has_read(
    data: tuple[Path, Manifest], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_rows, "SMALL", 2 * SHARD_BYTES)
    folder, manifest = data
    reader = Reader(LocalFiles(folder), manifest, "train", ("x", "label"))
    share, most, seen = EXAMPLES // lanes, 0, []
    for start in range(0, share, 500):
        for lane in range(lanes):
            read = reader.read(lane * share + start, lane * share + min(start + 500, share))
            assert np.array_equal(read["x"][:, 7], read["label"])
            seen.append(read["label"])
        most = max(most, resident(folder))
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(EXAMPLES)), "each once"
    assert 0 < most < lanes * 3 * WINDOW < SHARD_BYTES * 2


def test_a_small_split_stays_mapped(data: tuple[Path, Manifest]) -> None:
    folder, manifest = data
    size = sum(manifest.splits["train"].shards.sizes)
    assert size < open_rows.SMALL
    reader = Reader(LocalFiles(folder), manifest, "train", ("x", "label"))
    for start in range(0, EXAMPLES, 500):
        reader.read(start, start + 500)
    assert resident(folder) > 0.9 * size
