"""Reading by number, in a worker and through a streamer; what is damaged is named."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamtrain.errors import ConfigError, ShardError, WorkerLost
from streamtrain.images.pixels import decode_image
from streamtrain.packing import PackOptions, pack
from streamtrain.stream.ahead.ring import RingReader, RingShape, RingWriter
from streamtrain.stream.ahead.streamer import Streamer, open_stream, selections_read, selections_streamed
from streamtrain.stream.examples import Decoding
from streamtrain.stream.examples.decode import decoder_of
from streamtrain.stream.fetch.shard_files import OPEN_SHARDS, LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection, Skip
from tests.support.datasets import pack_digits
from tests.support.leftovers import named_memory


def picture_folders(root: Path, sizes: tuple[int, ...] = (6,)) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index in range(15):
            size = sizes[index % len(sizes)]
            Image.fromarray(generator.integers(0, 256, (size, 5, 3), np.uint8)).save(root / name / f"{index}.png")
    return root


def test_ranges_across_shards_are_one_array(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(shard_examples=7), examples=100)
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image", "label"))
    whole = reader.read(0, 80)
    assert len(reader) == 80 and whole["image"].shape == (80, 8, 8) and whole["label"].dtype == np.int64
    for start in range(0, 80, 3):
        piece = reader.read(start, min(start + 20, 80))
        assert np.array_equal(piece["image"], whole["image"][start : start + 20])
        assert piece["image"].flags.writeable and piece["image"].flags.c_contiguous


def test_many_shards_do_not_stay_open(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(shard_examples=1), examples=200)
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("label",))
    assert np.array_equal(
        reader.read(0, 160)["label"], np.concatenate([reader.read(n, n + 1)["label"] for n in range(160)])
    )
    assert len(reader._opened._open) <= OPEN_SHARDS


def test_locate_names_shard_row_and_key(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(shard_examples=30), examples=100)
    shard, row, key = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ()).locate(65)
    assert (shard.file, row, key) == ("train/000002.tar", 5, "65")


def test_an_altered_shard_is_named_when_it_is_first_opened(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(shard_examples=30), examples=100)
    file = tmp_path / "a" / "train" / "000001.tar"
    data = bytearray(file.read_bytes())
    data[700] ^= 255
    file.write_bytes(data)
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("label",))
    reader.read(0, 30)
    with pytest.raises(ShardError, match=r"000001\.tar: expected SHA-256"):
        reader.read(20, 40)


def test_unknown_field_and_split(tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", PackOptions(splits=(1, 0, 0)), examples=20)
    with pytest.raises(ConfigError, match="expected a field 'pixels', found image, label"):
        Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("pixels",))
    with pytest.raises(ConfigError, match="expected a validation split, found train"):
        Reader(LocalFiles(tmp_path / "a"), manifest, "validation", ("image",))


def test_images_are_decoded(tmp_path: Path) -> None:
    root = picture_folders(tmp_path / "raw")
    manifest = pack(str(root), tmp_path / "a", PackOptions(splits=(1, 0, 0)))
    arrays = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image", "label")).read(0, 30)
    expected = {np.asarray(Image.open(file)).tobytes() for file in root.rglob("*.png")}
    assert {image.tobytes() for image in arrays["image"]} == expected and arrays["image"].shape == (30, 6, 5, 3)


def test_images_of_several_sizes_are_named(tmp_path: Path) -> None:
    manifest = pack(str(picture_folders(tmp_path / "raw", (6, 7))), tmp_path / "a", PackOptions(splits=(1, 0, 0)))
    assert manifest.fields[0].shape is None
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image",))
    with pytest.raises(
        ShardError, match=r"example '\d\d', field 'image': expected shape \(\d, 5, 3\) as in .*, example '00'"
    ):
        reader.read(0, 30)


@pytest.mark.parametrize(("mode", "shape"), [("L", (4, 3)), ("1", (4, 3)), ("P", (4, 3, 3)), ("RGBA", (4, 3, 4))])
def test_image_modes(mode: str, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    Image.new(mode, (3, 4)).save(stream, "png")
    assert decode_image(np.frombuffer(stream.getvalue(), np.uint8)).shape == shape


def test_promise_9_no_decoder_executes_what_it_reads() -> None:
    for extension in ("pyd", "pickle", "pkl", "pth", "pt"):
        assert decoder_of(f"x.{extension}")(np.frombuffer(b"cos\nsystem", np.uint8), None) == b"cos\nsystem"
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled objects"):
        decoder_of("npy")(np.frombuffer(pickled.getvalue(), np.uint8), None)


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_streamer_gives_what_reading_gives(address: str | None, tmp_path: Path) -> None:
    manifest = pack(str(picture_folders(tmp_path / "raw")), tmp_path / "a", PackOptions(splits=(1, 0, 0)))
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image", "label"))
    parts = [Selection(0, ((start, min(start + 4, 30)),)) for start in range(0, 30, 4)]
    streamer = Streamer(reader, parts * 3, largest=4, address=address)
    streamed = selections_streamed([open_stream(streamer.start(), 5.0)])
    for expected in selections_read(reader, parts * 3):
        found = next(streamed)
        assert all(np.array_equal(found[name], expected[name]) for name in ("image", "label"))
    streamer.stop()
    assert streamer.failure() is None


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_streamers_failure_reaches_the_worker(address: str | None, tmp_path: Path) -> None:
    manifest = pack(str(picture_folders(tmp_path / "raw", (6, 7))), tmp_path / "a", PackOptions(splits=(1, 0, 0)))
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image",))
    streamer = Streamer(reader, [Selection(0, ((0, 1),)), Selection(0, ((0, 30),))], largest=30, address=address)
    streamed = selections_streamed([open_stream(streamer.start(), 5.0)])
    next(streamed)
    with pytest.raises(WorkerLost, match="the streamer failed or died"):
        next(streamed)
    assert isinstance(streamer.failure(), ShardError)


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_batch_of_another_form_is_refused_and_neither_spread_out_nor_rounded(
    address: str | None, tmp_path: Path
) -> None:
    manifest = pack_digits(tmp_path / "a", examples=100)
    for late, found in (
        (lambda image: image[:1], r"uint8 of shape \(1, 8\)"),
        (lambda image: image + 0.5, r"float64 of shape \(8, 8\)"),
    ):
        seen: list[int] = []

        def mapped(example: dict[str, Any], late: Any = late, seen: list[int] = seen) -> dict[str, Any]:
            seen.append(1)
            return {"image": example["image"] if len(seen) <= 1 + 9 else late(example["image"])}

        reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image",), Decoding(mapped))
        parts = [Selection(0, ((start, start + 9),)) for start in (0, 9)]
        streamer = Streamer(reader, parts, largest=9, address=address)
        streamed = selections_streamed([open_stream(streamer.start(), 5.0)])
        next(streamed)
        with pytest.raises(WorkerLost):
            next(streamed)
        expected = rf"streamers, field 'image' of a batch: expected uint8 of shape .*, found {found}; bring all"
        assert re.match(expected, str(streamer.failure())), streamer.failure()
        streamer.stop()


def test_a_batch_that_came_before_the_failure_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer fills a slot and fails while the reader sleeps."""
    writer = RingWriter(RingShape(depth=2, examples=1, fields={"x": ("<i8", ())}))
    reader = RingReader(writer.handle)

    def meanwhile(_: float) -> None:
        if not writer._words[0]:
            writer.put({"x": np.array([7])}, stopped=lambda: False)
            writer.fail()

    monkeypatch.setattr("streamtrain.stream.ahead.ring.time.sleep", meanwhile)
    assert reader.get()["x"].tolist() == [7]
    with pytest.raises(WorkerLost):
        reader.get()


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_streamer_that_nobody_reads_stops_when_told(address: str | None, tmp_path: Path) -> None:
    manifest = pack_digits(tmp_path / "a", examples=100)
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image",))
    before = named_memory(os.getpid())
    streamer = Streamer(reader, [Selection(0, ((0, 9),))] * 1000, largest=9, address=address)
    streamer.start()
    assert named_memory(os.getpid()) == before
    streamer.stop()
    assert streamer.failure() is None and named_memory(os.getpid()) == before


@pytest.mark.parametrize("blocks", [False, True])
def test_what_is_left_out_is_never_read(tmp_path: Path, blocks: bool) -> None:
    options = PackOptions(seed=3, shard_examples=50, blocks=blocks)
    manifest = pack_digits(tmp_path / "digits", options, examples=200)
    readers = [Reader(LocalFiles(tmp_path / "digits"), manifest, "train", ("image", "label")) for _ in range(2)]
    whole = readers[0].read(0, 100)
    reader = readers[1]
    reader.read(0, 10)  # the shard that it leaves something out of is open
    reader.leave_out({3: Skip("a", "b"), 60: Skip("c", "d")})
    for start, stop in ((0, 100), (0, 3), (3, 4), (2, 5), (50, 70)):
        kept = [number for number in range(start, stop) if number not in (3, 60)]
        found = reader.read(start, stop)
        assert bool(found) == bool(kept)
        assert all(np.array_equal(found[name], whole[name][kept]) for name in found)
    taken = reader.take(np.array([60, 9, 3, 61]))
    assert np.array_equal(taken["image"], whole["image"][[9, 61]])
    assert set(reader.skips) == {("train", 3), ("train", 60)} and reader.loading.skipped == 2
    assert reader.where(3).startswith(f"{tmp_path / 'digits'}/train/000000.tar, example '")
