"""`pack --image-size`: arrays, the same bits as reading the originals at that size gives."""

from pathlib import Path

import numpy as np
import pytest

from streamtrain.errors import ConfigError, SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.stream.loops.opened import open as open_dataset
from tests.support.pictures import encoded, picture

ALL = PackOptions(splits=(1, 0, 0))
SIZED = PackOptions(splits=(1, 0, 0), image_size=(10, 12), image_mode="rgb")


def pictures(folder: Path, *modes: str) -> Path:
    for number, mode in enumerate(modes):
        for kind in ("PNG", "JPEG", "TIFF"):
            data = encoded(picture(mode, number), kind)
            if data is not None:
                (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
                (folder / "ab"[number % 2] / f"{number}{kind}.png").write_bytes(data)
    return folder


@pytest.mark.parametrize(("mode", "shape"), [("grey", (10, 12)), ("rgb", (10, 12, 3)), ("rgba", (10, 12, 4))])
def test_what_is_stored_is_what_reading_gives(mode: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    source = pictures(tmp_path / "raw", "RGB", "L", "RGBA", "P", "I;16", "CMYK")
    options = PackOptions(splits=(1, 0, 0), image_size=(10, 12), image_mode=mode, image_background=(1, 2, 3))  # type: ignore[arg-type]
    field = pack(source, tmp_path / "sized", options).fields[0]
    assert (field.member, field.dtype, field.shape) == ("image.npy", "uint8", shape)
    pack(source, tmp_path / "plain", ALL)
    sized = open_dataset(tmp_path / "sized")
    plain = open_dataset(tmp_path / "plain", image_size=(10, 12), image_mode=mode, image_background=(1, 2, 3))  # type: ignore[arg-type]
    for name in ("image", "label"):
        assert np.array_equal(sized[0 : len(sized)][name], plain[0 : len(plain)][name]), name
    assert len(sized) == 14


def test_a_sized_data_set_grows(tmp_path: Path) -> None:
    pack(pictures(tmp_path / "one", "RGB", "L"), tmp_path / "out", SIZED)
    manifest = append(pictures(tmp_path / "two", "RGBA", "P"), tmp_path / "out", SIZED)
    assert open_dataset(tmp_path / "out")[0 : manifest.examples]["image"].shape == (manifest.examples, 10, 12, 3)


def test_images_in_tables_are_sized_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [encoded(picture("RGB", seed), "JPEG") for seed in range(6)]
    pq.write_table(pa.table({"picture": pa.array(data, pa.binary()), "n": range(6)}), tmp_path / "a.parquet")
    field = pack(tmp_path / "a.parquet", tmp_path / "out", SIZED).field_named("picture")
    assert field is not None and field.shape == (10, 12, 3) and field.member == "picture.npy"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "raw", "RGB", "L")
    options = PackOptions(splits=(1, 0, 0), image_size=(10, 12))
    with pytest.raises(
        SourceError, match="expected images of one kind, rgb as the first, found grey; set --image-mode"
    ):
        pack(source, tmp_path / "out", options)
    (source / "b" / "9.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"b/9\.png, field 'image': expected a readable image"):
        pack(source, tmp_path / "out", SIZED)
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(SourceError, match="expected a field of images, found x; leave --image-size out"):
        pack(tmp_path / "a.npz", tmp_path / "out", SIZED)
    for wrong, message in (
        ({"image_mode": "rgb"}, "image_mode: expected an image_size"),
        ({"image_size": (0, 4)}, "image_size: expected sides of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            PackOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("sized", [False, True])
def test_bad_images_are_all_named_or_left_out(sized: bool, tmp_path: Path) -> None:
    """Also the very first one; what is left out is not counted."""
    source = pictures(tmp_path / "raw", "RGB", "RGB", "RGB")
    for number in (0, 4, 9):
        (source / "a" / f"{number}.png").write_bytes(b"no picture")
    size = (10, 12) if sized else None
    with pytest.raises(SourceError) as raised:
        pack(source, tmp_path / "out", PackOptions(splits=(1, 0, 0), image_size=size))
    assert all(f"a/{number}.png" in str(raised.value) for number in (0, 4, 9))
    options = PackOptions(splits=(1, 0, 0), image_size=size, on_bad_example="skip")
    manifest = pack(source, tmp_path / "out", options)
    assert manifest.examples == 9 == len(open_dataset(tmp_path / "out")[0:9]["label"])
    facts = manifest.fields[0].images
    assert facts is None if sized else facts is not None and facts.images == 9
