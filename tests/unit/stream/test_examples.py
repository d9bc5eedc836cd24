"""Decoding one by one: over threads, through the user's function, and past bad examples."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamtrain.errors import JobError, ShardError
from streamtrain.images.headers import MOST_PIXELS
from streamtrain.images.pixels import decode_image
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest
from streamtrain.shards.index import index_name, read_index, scan_index, write_index
from streamtrain.stream.ahead.streamer import Streamer, open_stream, selections_read, selections_streamed
from streamtrain.stream.examples import Decoding
from streamtrain.stream.examples.decode import decoder_of
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Selection

EXAMPLES = 40


def texts(root: Path) -> tuple[Path, Manifest]:
    """Texts of several lengths, every seventh without a number in it; in stored order by ``id``."""
    source = root / "source.py"
    source.write_text(
        "def examples():\n"
        f"    for i in range({EXAMPLES}):\n"
        "        yield {'text': ('no number' if i % 7 == 3 else f'{i} ' + 'x' * i), 'label': i}\n"
    )
    import sys

    sys.path.insert(0, str(root))
    try:
        return root / "a", pack(
            "source:examples", root / "a", PackOptions(splits=(1, 0, 0), shard_examples=9, blocks=False)
        )
    finally:
        sys.path.remove(str(root))
        del sys.modules["source"]


def number_in_text(example: dict[str, Any]) -> dict[str, Any]:
    return {"number": np.float32(int(example["text"].split()[0])), "label": example["label"]}


def image_bytes(array: np.ndarray, kind: str, **options: Any) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_example_stops_or_is_passed_over(tmp_path: Path, threads: int) -> None:
    folder, manifest = texts(tmp_path)
    fields = ("text", "label")
    with pytest.raises(JobError, match=r"\.tar, example '\d\d': data.map failed: ValueError: .*no"):
        Reader(LocalFiles(folder), manifest, "train", fields, decoding=Decoding(number_in_text)).read(0, EXAMPLES)
    reader = Reader(
        LocalFiles(folder), manifest, "train", fields, decoding=Decoding(number_in_text, None, threads, "skip")
    )
    labels = Reader(LocalFiles(folder), manifest, "train", ("label",)).read(0, EXAMPLES)["label"]
    good = labels[labels % 7 != 3]
    arrays = reader.read(0, EXAMPLES)
    assert np.array_equal(arrays["label"], good) and np.array_equal(arrays["number"], good.astype(np.float32))
    bad = np.flatnonzero(labels % 7 == 3).tolist()
    assert sorted(reader.skipped) == bad and "ValueError" in reader.skipped[bad[0]].reason
    assert reader.loading.skipped == len(bad)
    shuffled = np.random.default_rng(0).permutation(EXAMPLES)
    taken = reader.take(shuffled)["label"]
    assert np.array_equal(taken, [label for label in labels[shuffled] if label % 7 != 3])
    assert reader.read(bad[0], bad[0] + 1) == {}, "a part of bad examples only"


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["ring", "wire"])
def test_a_streamer_passes_over_the_same(address: str | None, tmp_path: Path) -> None:
    folder, manifest = texts(tmp_path)
    reader = Reader(
        LocalFiles(folder), manifest, "train", ("text", "label"), decoding=Decoding(number_in_text, None, 2, "skip")
    )
    parts = [Selection(0, ((start, start + 1),)) for start in range(EXAMPLES)] + [Selection(0, ((5, 15), (20, 33)))]
    streamer = Streamer(reader, parts, largest=23, address=address)
    stream = open_stream(streamer.start(), 5.0)
    for expected, found in zip(selections_read(reader, parts), selections_streamed([stream]), strict=False):
        assert expected.keys() == found.keys()
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
    streamer.stop()
    assert len(streamer.skipped()) == stream.loading.skipped == 6
    assert stream.loading.bytes_read > 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("shape", [(28, 31), (28, 31, 3)])
def test_fast_decoders_give_pillows_pixels(kind: str, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    data = image_bytes(noise, kind)
    expected = np.asarray(Image.open(io.BytesIO(data.tobytes())))
    found = decoder_of(kind)(data, None)
    assert np.array_equal(found, expected if found.ndim == expected.ndim else expected[:, :, 0])
    into = np.empty(found.shape, np.uint8)
    again = decoder_of(kind)(data, into)
    assert np.array_equal(again, found)


def test_jpeg_in_cmyk_and_cut_short() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8), (10, 20, 30, 40)).save(stream, "jpeg")
    assert decode_image(np.frombuffer(stream.getvalue(), np.uint8)).shape == (8, 8, 3)
    whole = image_bytes(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), "jpeg")
    with pytest.raises((OSError, ValueError)):
        decode_image(whole[: len(whole) // 2])


def test_damaged_png_is_refused() -> None:
    data = image_bytes(np.random.default_rng(1).integers(0, 256, (20, 20), np.uint8), "png").copy()
    data[len(data) // 2] ^= 16
    for bad in (data, data[: len(data) // 2]):
        with pytest.raises((OSError, ValueError, SyntaxError)):
            decode_image(bad)


def test_decompression_bombs_are_refused_by_their_headers() -> None:
    data = image_bytes(np.zeros((4, 4), np.uint8), "png").copy()
    data[16:24] = np.frombuffer(np.array([60_000, 60_000], ">u4").tobytes(), np.uint8)
    with pytest.raises(ValueError, match=f"60000×60000 pixels, more than {MOST_PIXELS:,}"):
        decode_image(data)


def test_images_are_brought_to_one_size(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for name, side in (("a", 40), ("b", 300)):
        (root / name).mkdir(parents=True)
        for index in range(4):
            ramp = np.linspace(0, 255, side * side * 3).reshape(side, side, 3).astype(np.uint8)
            Image.fromarray(ramp).save(root / name / f"{index}.jpg", quality=95)
    manifest = pack(str(root), tmp_path / "a", PackOptions(splits=(1, 0, 0)))
    decoding = Decoding(image_size=(32, 24), threads=2)
    arrays = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image", "label"), decoding=decoding).read(0, 8)
    assert arrays["image"].shape == (8, 32, 24, 3)
    small, large = (arrays["image"][arrays["label"] == label].astype(float).mean((0, 3)) for label in (0, 1))
    assert np.abs(small - large).max() < 12, "the same ramp from either size"


def test_an_index_is_read_back_and_never_believed_of_another_shard(tmp_path: Path) -> None:
    folder, manifest = texts(tmp_path)
    shard = manifest.splits["train"].shards[0]
    made = scan_index(folder / shard.file, shard.sha256)
    file = folder / index_name(shard.file)
    write_index(file, made)
    assert file.read_bytes() == (write_index(file, made), file.read_bytes())[1]
    found = read_index(file, shard.examples, shard.bytes, shard.sha256)
    assert found is not None and found.key(3) == made.key(3) and np.array_equal(found.starts, made.starts)
    assert read_index(file, shard.examples + 1, shard.bytes, shard.sha256) is None
    assert read_index(file, shard.examples, shard.bytes, "0" * 64) is None
    made.starts[0, 0] = shard.bytes
    write_index(file, made)
    assert read_index(file, shard.examples, shard.bytes, shard.sha256) is None, "it points out of the shard"
    file.write_bytes(file.read_bytes()[:-50])
    assert read_index(file, shard.examples, shard.bytes, shard.sha256) is None
    assert read_index(tmp_path / "none", 1, 1, "") is None


def test_a_shard_with_an_index_gives_the_same(tmp_path: Path) -> None:
    folder, manifest = texts(tmp_path)
    expected = Reader(LocalFiles(folder), manifest, "train", ("label",)).read(0, EXAMPLES)
    for shard in manifest.splits["train"].shards:
        write_index(folder / index_name(shard.file), scan_index(folder / shard.file, shard.sha256))
    found = Reader(LocalFiles(folder), manifest, "train", ("label",)).read(0, EXAMPLES)
    assert np.array_equal(found["label"], expected["label"])


@pytest.mark.parametrize("threads", [1, 2])
def test_each_batch_may_have_a_form_of_its_own_but_not_two(tmp_path: Path, threads: int) -> None:
    for number, side in enumerate((8, 8, 8, 12, 12, 12, 8, 12)):
        (tmp_path / "raw" / "0").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), number, np.uint8)).save(tmp_path / "raw" / "0" / f"{number}.png")
    manifest = pack(str(tmp_path / "raw"), tmp_path / "a", PackOptions(splits=(1, 0, 0), seed=1))
    reader = Reader(LocalFiles(tmp_path / "a"), manifest, "train", ("image",), decoding=Decoding(threads=threads))
    sides = [reader.read(number, number + 1)["image"].shape[1] for number in range(8)]
    small, large = (np.flatnonzero(np.array(sides) == side) for side in (8, 12))
    for rows in (small, large, small[:2], large):
        assert reader.take(rows)["image"].shape == (len(rows), sides[rows[0]], sides[rows[0]])
    with pytest.raises(ShardError, match="expected shape"):
        reader.read(0, 8)
