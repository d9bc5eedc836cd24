"""Images on their way through `pack` and back: of any encoding, counted by kind, and refused by name."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from streamtrain.errors import ShardError, SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.shards import Manifest, read_manifest
from streamtrain.shards.codec import FieldEncoder, ImageFile
from streamtrain.stream.loops.opened import open as open_dataset
from tests.support.foreign import write_tar
from tests.support.pictures import encoded, picture

ALL = PackOptions(splits=(1, 0, 0))


def save(folder: Path, name: str, mode: str, kind: str, seed: int = 0) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    data = encoded(picture(mode, seed), kind)
    assert data is not None
    (folder / name).write_bytes(data)
    return data


def stored_order(manifest: Manifest, folder: Path) -> list[dict[str, bytes]]:
    files = [str(folder / shard.file) for split in manifest.splits.values() for shard in split.shards]
    return list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))


def test_encodings_mix_in_one_field_that_plain_webdataset_decodes(tmp_path: Path) -> None:
    kinds = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.gif": "GIF", "e.bmp": "BMP", "f.TIFF": "TIFF"}
    content = {save(tmp_path / "raw" / "x", name, "RGB", kind) for name, kind in kinds.items()}
    manifest = pack(tmp_path / "raw", tmp_path / "out", ALL)
    field = manifest.fields[0]
    assert field.member == "image.png" and field.shape == (16, 24, 3) and field.images is not None
    assert field.images.encodings == dict.fromkeys(("bmp", "gif", "jpg", "png", "tif", "webp"), 1)
    assert field.images.kinds == {"rgb": 6}
    assert {example["image.png"] for example in stored_order(manifest, tmp_path / "out")} == content
    shard = str(tmp_path / "out" / "train" / "000000.tar")
    decoded = list(webdataset.WebDataset(shard, shardshuffle=False, empty_check=False).decode("rgb8"))
    ours = open_dataset(tmp_path / "out")[0:6]["image"]
    assert all(np.array_equal(one["image.png"], other) for one, other in zip(decoded, ours, strict=True))
    assert read_manifest(tmp_path / "out").fields == manifest.fields


@pytest.mark.parametrize(("kind", "member"), [("JPEG", "jpg"), ("WEBP", "webp"), ("TIFF", "tif"), ("AVIF", "png")])
def test_one_encoding_names_the_members(kind: str, member: str, tmp_path: Path) -> None:
    """By the content: the files here are all called .jfif."""
    save(tmp_path / "raw" / "x", "0.jfif", "RGB", kind)
    assert pack(tmp_path / "raw", tmp_path / "out", ALL).fields[0].member == f"image.{member}"


def test_what_pack_has_seen_is_in_the_manifest_whatever_the_tasks_and_the_memory(tmp_path: Path) -> None:
    for number in range(40):
        mode = ("RGB", "L", "RGBA", "I;16")[number % 4]
        save(tmp_path / "raw" / "x", f"{number}.png", mode, "PNG", number)
    found = []
    for name, options in (("a", ALL), ("b", PackOptions(splits=(1, 0, 0), memory_bytes=1, tasks=3))):
        field = pack(tmp_path / "raw", tmp_path / name, options).fields[0]
        assert field.images is not None and field.dtype is None and field.shape is None
        found.append(field)
    assert found[0] == found[1]
    assert found[0].images is not None
    assert found[0].images.kinds == {"grey": 10, "grey16": 10, "rgb": 10, "rgba": 10}
    assert found[0].images.smallest == found[0].images.largest == (16, 24)


def test_a_data_set_grows_by_images_of_other_encodings(tmp_path: Path) -> None:
    save(tmp_path / "one" / "x", "0.jpg", "RGB", "JPEG")
    save(tmp_path / "two" / "x", "0.png", "L", "PNG")
    pack(tmp_path / "one", tmp_path / "out", ALL)
    field = append(tmp_path / "two", tmp_path / "out", ALL).fields[0]
    assert field.member == "image.jpg" and field.images is not None
    assert field.images.kinds == {"grey": 1, "rgb": 1} and field.images.encodings == {"jpg": 1, "png": 1}
    read = open_dataset(tmp_path / "out", image_mode="rgb")[0:2]["image"]
    assert read.shape == (2, 16, 24, 3)


def test_warnings_of_libraries_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        image = Image.new("RGB", (8, 8), (number, 0, 0))
        stream = io.BytesIO()
        image.save(stream, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")  # five entries, and none there
        (tmp_path / "raw" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / "x" / f"{number}.jpg").write_bytes(stream.getvalue())
    field = pack(tmp_path / "raw", tmp_path / "out", ALL).fields[0]
    assert field.images is not None and list(field.images.notes.values()) == [20]
    assert "EXIF" in next(iter(field.images.notes))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("skip", ["stop", "skip"])
def test_grey_among_colour_is_told_with_what_cures_it(skip: str, tmp_path: Path) -> None:
    """Also where bad examples are skipped: neither is bad."""
    for number in range(6):
        save(tmp_path / "raw" / "x", f"{number}.png", "L" if number in (0, 3) else "RGB", "PNG", number)
    pack(tmp_path / "raw", tmp_path / "out", ALL)
    for size in (None, (8, 8)):
        with pytest.raises(ShardError, match="field 'image'.*; set data.image_mode to \"rgb\""):
            open_dataset(tmp_path / "out", image_size=size, on_bad_example=skip)[0:6]  # type: ignore[arg-type]
    examples = open_dataset(tmp_path / "out", image_mode="rgb", on_bad_example=skip)  # type: ignore[arg-type]
    assert examples[0:6]["image"].shape == (6, 16, 24, 3) and not examples.reader.skipped


def test_images_in_a_table_are_told_by_their_content(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = ("PNG", "JPEG", "TIFF", "GIF")
    data = [encoded(picture("RGB", seed), kinds[seed % 4]) for seed in range(8)]
    pq.write_table(pa.table({"picture": pa.array(data, pa.binary())}), tmp_path / "a.parquet")
    field = pack(tmp_path / "a.parquet", tmp_path / "out", ALL).fields[0]
    assert field.images is not None and field.images.encodings == dict.fromkeys(("gif", "jpg", "png", "tif"), 2)
    assert field.member == "picture.png"


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "x", "0.png", "RGB", "PNG")
    (tmp_path / "raw" / "x" / "1.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"x/1\.png, field 'image': expected a readable image, found .*Pillow knows"):
        pack(tmp_path / "raw", tmp_path / "out", ALL)
    assert not (tmp_path / "out").exists()


def test_facts_that_are_none_are_refused(tmp_path: Path) -> None:
    from streamtrain.errors import ManifestError

    save(tmp_path / "raw" / "x", "0.png", "RGB", "PNG")
    pack(tmp_path / "raw", tmp_path / "out", ALL)
    file = tmp_path / "out" / "manifest.json"
    for wrong in ({"kinds": {"purple": 1}}, {"encodings": {"png": -1}}, {"smallest": [1]}, {"notes": []}):
        card = json.loads(file.read_text())
        card["fields"][0]["images"] |= wrong
        (tmp_path / "wrong").mkdir(exist_ok=True)
        (tmp_path / "wrong" / "manifest.json").write_text(json.dumps(card))
        with pytest.raises(ManifestError):
            read_manifest(tmp_path / "wrong")


def tar_of(file: Path, *examples: dict[str, bytes]) -> None:
    members = [(f"{number:04}.{name}", data) for number, each in enumerate(examples) for name, data in each.items()]
    write_tar(file, members)


def test_images_of_several_extensions_in_tars_are_one_field(tmp_path: Path) -> None:
    """As img2dataset leaves them, and as a renaming does: by content either way."""
    jpeg, png = (encoded(picture("RGB", 1), kind) or b"" for kind in ("JPEG", "PNG"))
    tar_of(tmp_path / "a.tar", {"jpg": jpeg, "txt": b"one"}, {"png": png, "txt": b"two"})
    tar_of(tmp_path / "b.tar", {"seg.png": png, "cls": b"1"}, {"seg.jpg": jpeg, "cls": b"0"})
    tar_of(tmp_path / "c.tar", {"jpg": jpeg, "cls": b"1"}, {"jpg": png, "cls": b"0"})
    for name, field, member in (("a", "image", "image.png"), ("b", "seg", "seg.png"), ("c", "jpg", "jpg")):
        manifest = pack(tmp_path / f"{name}.tar", tmp_path / name, ALL)
        found = manifest.field_named(field)
        assert found is not None and found.member == member and found.images is not None
        assert found.images.encodings == {"jpg": 1, "png": 1}
        assert open_dataset(tmp_path / name)[0:2][field].shape == (2, 16, 24, 3)


def test_tars_whose_examples_differ_in_more_are_refused_by_the_first(tmp_path: Path) -> None:
    png = encoded(picture("RGB"), "PNG") or b""
    tar_of(tmp_path / "a.tar", {"png": png, "txt": b"one"}, {"png": png})
    tar_of(tmp_path / "b.tar", {"png": png, "jpg": png}, {"png": png})
    for name in ("a", "b"):
        with pytest.raises(ShardError, match=rf"{name}\.tar, '0001'.*expected the members .* as in the first example"):
            pack(tmp_path / f"{name}.tar", tmp_path / name, ALL)


def test_an_example_that_is_not_taken_leaves_no_trace() -> None:
    encoder = FieldEncoder("image")
    encoder.encode(ImageFile(encoded(picture("RGB"), "PNG") or b""), "one")
    before, kept = encoder.seen, vars(encoder).copy()
    encoder.encode(ImageFile(encoded(picture("L"), "JPEG") or b""), "two")
    assert encoder.seen != before
    vars(encoder).update(kept)
    assert encoder.seen == before


def test_foreign_images_of_several_sizes_and_names_are_read_by_content(tmp_path: Path) -> None:
    """The first image says nothing of the size of the others."""
    small, large = (
        encoded(picture("RGB", seed).resize(size), "PNG") or b"" for seed, size in ((1, (5, 4)), (2, (9, 8)))
    )
    for split in ("train", "validation"):
        tar_of(tmp_path / split / "0.tar", {"jpg": small, "cls": b"0"}, {"jpg": large, "cls": b"1"})
    examples = open_dataset(tmp_path)
    assert [examples[number]["jpg"].shape for number in (0, 1)] == [(4, 5, 3), (8, 9, 3)]
    with pytest.raises(ShardError, match="set data.image_size"):
        examples[0:2]
    assert open_dataset(tmp_path, image_size=(6, 6))[0:2]["jpg"].shape == (2, 6, 6, 3)


def test_hugging_face_and_webdataset_decode_a_field_of_mixed_encodings(tmp_path: Path) -> None:
    import datasets

    for number, kind in enumerate(("PNG", "JPEG", "GIF", "BMP", "AVIF")):
        save(tmp_path / "raw" / "x", f"{number}.jpg", "RGB", kind, number)
    pack(tmp_path / "raw", tmp_path / "out", ALL)
    shard = str(tmp_path / "out" / "train" / "000000.tar")
    ours = open_dataset(tmp_path / "out")[0:5]["image"]
    read = datasets.load_dataset("webdataset", data_files={"train": [shard]}, split="train", streaming=True)
    theirs = [np.asarray(each["image.png"].convert("RGB")) for each in read]
    plain = webdataset.WebDataset(shard, shardshuffle=False, empty_check=False).decode("rgb8")
    for found in (theirs, [each["image.png"] for each in plain]):
        assert len(found) == 5 and all(np.array_equal(one, other) for one, other in zip(found, ours, strict=True))
