"""Only the lanes' part of a border shard is fetched, checked by itself, and read as the whole shard is."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from streamtrain.errors import StoreError
from streamtrain.order import Order, SegmentedOrder
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest
from streamtrain.shards.index import index_name, read_index, write_index
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store
from streamtrain.stream.fetch.cache import Cache
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import LocalFiles, ShardRows
from streamtrain.stream.reader import Reader
from tests.support.datasets import save_digits
from tests.support.pieces import BLOCK_BYTES, PIECE, small_pieces

EXAMPLES = 211
KINDS = ("one by one", "blocks", "encoded", "bytes in blocks")

SOURCE = f"""
def examples():
    for number in range({EXAMPLES}):
        yield {{"image": bytes([number]) * (200 + 7 * number), "label": number}}
"""


@pytest.fixture(scope="module", autouse=True)
def pieces() -> Iterator[None]:
    with small_pieces():
        yield


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Manifest]]:
    root, made = tmp_path_factory.mktemp("data"), {}
    source = str(save_digits(root / "digits.npz", EXAMPLES, wide=True))
    (root / "pictures_of_all_lengths.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        lengths = "pictures_of_all_lengths:examples"
        for kind, raw in zip(KINDS, (source, source, lengths, lengths), strict=True):
            options = PackOptions(splits=(1, 0, 0), seed=1, blocks=kind.endswith("blocks"), shard_examples=100)
            made[kind] = root / kind, pack(raw, root / kind, options)
    return made


def fetched(folder: Path, cache: Path, *, ahead: int = 0) -> FetchedFiles:
    return FetchedFiles(Store(str(folder), RetryPolicy(attempts=2, first=0)), Cache(cache, 1 << 30), ahead_bytes=ahead)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lanes=some.integers(1, 7), hosted=some.data(), part=some.integers(1, 9), ahead=some.booleans())
def test_promise_2_lanes_read_the_same_from_their_parts(
    kind: str,
    packed: dict[str, tuple[Path, Manifest]],
    tmp_path_factory: pytest.TempPathFactory,
    lanes: int,
    hosted: some.DataObject,
    part: int,
    ahead: bool,
) -> None:
    """Whichever lanes a worker hosts, and from whichever step on."""
    folder, manifest = packed[kind]
    order = Order(EXAMPLES, lanes, lanes * part)
    first = hosted.draw(some.integers(0, lanes - 1))
    here = range(first, hosted.draw(some.integers(first + 1, lanes)))
    step = hosted.draw(some.integers(0, order.steps - 1))
    files = fetched(folder, tmp_path_factory.mktemp("cache"), ahead=1 << 30 if ahead else 0)
    reader, local = (Reader(each, manifest, "train", ("image", "label")) for each in (files, LocalFiles(folder)))
    reader.expect(order.left(here, step))
    for each in range(step, order.steps):
        for lane in order.minibatch(order.position(each)).parts[here.start : here.stop]:
            if lane.examples:
                assert same(reader.read(lane.start, lane.stop), local.read(lane.start, lane.stop))
    files.close()


@pytest.mark.parametrize("kind", KINDS)
def test_all_lanes_together_fetch_every_shard_about_once(
    kind: str, packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed[kind]
    shards = manifest.splits["train"].shards
    order, total = Order(EXAMPLES, 5, 5), 0
    for lane in range(5):
        files = fetched(folder, tmp_path / str(lane))
        reader = Reader(files, manifest, "train", ("label",))
        reader.expect(order.left(range(lane, lane + 1), 0))
        for start, stop in order.left(range(lane, lane + 1), 0):
            reader.read(start, stop)
        total += files.health().bytes_fetched
        files.close()
    at_a_border = 2 * PIECE + (2 * BLOCK_BYTES if kind.endswith("blocks") else 0)
    assert total <= sum(shard.bytes for shard in shards) + 6 * at_a_border


def test_a_wrong_piece_is_fetched_again_and_then_named(
    packed: dict[str, tuple[Path, Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = packed["one by one"]
    files, shard = fetched(folder, tmp_path), manifest.splits["train"].shards[0]
    usual = Store.chunks
    spoiled: Iterator[bool] = iter([True])

    def flipped(store: Store, *span: object, **named: object) -> Iterator[bytes]:
        for chunk in usual(store, *span, **named):  # type: ignore[arg-type]
            yield bytes([chunk[0] ^ 1]) + chunk[1:] if next(spoiled, False) else chunk

    monkeypatch.setattr(Store, "chunks", flipped)
    rows = files.covering(ShardRows(shard, 50, 60))
    assert (rows.first, rows.last) == (50, 60)
    begin = (shard.bytes - 1024) // 100 * 50
    assert files.hold(rows).read_bytes()[:-1024] == (folder / shard.file).read_bytes()[begin : begin * 60 // 50]
    spoiled = itertools.repeat(True)
    with pytest.raises(StoreError, match=r"000000\.tar, bytes \d+ to \d+: expected CRC-32 .{8}, found .{8}, in two"):
        files.hold(files.covering(ShardRows(shard, 20, 30)))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_not_expected_is_read_from_the_whole_shard(
    packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed["encoded"]
    files = fetched(folder, tmp_path)
    reader, local = (Reader(each, manifest, "train", ("image", "label")) for each in (files, LocalFiles(folder)))
    reader.expect([(30, 50), (120, 140)])
    for start, stop in ((30, 50), (45, 55), (120, 140), (0, EXAMPLES)):
        assert same(reader.read(start, stop), local.read(start, stop))
    numbers = np.array([3, 130, 200, 31])
    assert same(reader.take(numbers), local.take(numbers)) and reader.locate(130)[2] == local.locate(130)[2]
    reader.expect([(30, 50)])
    assert [s["__key__"] for s in reader.samples(35, 40)] == [s["__key__"] for s in local.samples(35, 40)]
    assert same(reader.first_good(), local.read(30, 31)), "the form is seen without another shard"


@pytest.mark.parametrize(
    "change",
    [
        {"stride": -512},
        {"stride": 1 << 62},
        {"block": 0},
        {"stride": 0},
        {
            "stride": 0,
            "keys": np.array([b"a"] * 100),
            **dict.fromkeys(("starts", "sizes"), np.empty((100, 0), np.int64)),
        },
        {"starts": np.empty((7, 0), np.int64)},
        {"sums": np.zeros(3, np.uint32)},
        {"piece": 0},
        {"piece": 1},
        {"sums": np.zeros(0, np.uint32)},
    ],
    ids=lambda change: " ".join(change),
)
def test_an_index_that_cannot_be_right_is_not_followed(
    change: dict[str, object], packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed["one by one"]
    shard = manifest.splits["train"].shards[0]
    found = read_index(folder / index_name(shard.file), None, shard.bytes, shard.sha256)
    assert found is not None and found.stride and len(found.sums)
    write_index(tmp_path / "changed.npz", dataclasses.replace(found, **change))  # type: ignore[arg-type]
    files = fetched(folder, tmp_path / "cache")
    files._store.read_if_there = lambda _: (tmp_path / "changed.npz").read_bytes()  # type: ignore[method-assign]
    assert files.covering(ShardRows(shard, 20, 30)).whole


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_without_a_good_index_the_whole_shard_comes(
    damage: str, packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed["blocks"]
    shard, other = manifest.splits["train"].shards[:2]
    store = Store(str(folder))
    data = {"missing": None, "cut": store.read_whole(index_name(shard.file))[:-100]}
    data["other"] = store.read_whole(index_name(other.file))
    files = fetched(folder, tmp_path)
    files._store.read_if_there = lambda _: data[damage]  # type: ignore[method-assign]
    assert files.covering(ShardRows(shard, 0, 10)).whole
    assert files.hold(files.covering(ShardRows(shard, 0, 10))).stat().st_size == shard.bytes


def test_an_older_part_is_not_trusted_after_a_restart_of_the_machine(
    packed: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = packed["one by one"]
    files, shard = fetched(folder, tmp_path), manifest.splits["train"].shards[0]
    rows = files.covering(ShardRows(shard, 50, 60))
    files.release((files.hold(rows), rows)[1])
    files.release((files.hold(rows), rows)[1])
    once = files.health().bytes_fetched
    files._cache._started = 1e12
    files.hold(rows)
    assert files.health().bytes_fetched == 2 * once


def test_runs_of_segments_that_are_left() -> None:
    order = SegmentedOrder([10, 0, 7], lanes=2, batch_size=4)
    assert order.left(range(2), 0) == [(0, 5), (5, 10), (10, 14), (14, 17)]
    assert order.left(range(1, 2), 1) == [(7, 10), (14, 17)]
    assert order.left(range(2), 3) == [(10, 14), (14, 17)] and order.left(range(2), order.steps) == []
