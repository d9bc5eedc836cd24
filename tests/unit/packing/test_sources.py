"""Every kind of source, and every refusal by its text."""

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image

from streamtrain.errors import ConfigError, DataError, SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import Manifest, read_manifest
from tests.support.datasets import save_digits

ALL_TRAIN = PackOptions(splits=(1.0, 0.0, 0.0), blocks=False)


def contents(folder: Path) -> list[dict[str, Any]]:
    """All examples as WebDataset reads them, in stored order."""
    shards = sorted(str(file) for file in folder.glob("*/*.tar"))
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def class_folders(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(6):
            (root / name / f"{index}.png").write_bytes(png(np.full((4, 5, 3), 20 * index + number, np.uint8)))
    return root


def test_folder_of_images_by_class(tmp_path: Path) -> None:
    manifest = pack(str(class_folders(tmp_path / "photos")), tmp_path / "packed", ALL_TRAIN)
    image, label = manifest.fields
    assert (image.member, image.shape, image.dtype) == ("image.png", (4, 5, 3), "uint8")
    assert (label.member, label.low, label.high, label.classes) == ("label.cls", 0, 1, ("cat", "dog"))
    assert manifest.splits["train"].class_counts == {0: 6, 1: 6}
    found = {(example["image.png"][0, 0, 0].item(), example["label.cls"]) for example in contents(tmp_path / "packed")}
    assert found == {(20 * index + number, number) for index in range(6) for number in range(2)}


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "iris.csv"
    file.write_text("width,name,label,length\n" + "".join(f"{n}.5,n{n},{'ab'[n % 2]},{n}\n" for n in range(9)))
    manifest = pack(str(file), tmp_path / "packed", ALL_TRAIN)
    assert [f.member for f in manifest.fields] == ["features.npy", "label.cls", "name.txt"]
    assert manifest.fields[1].classes == ("a", "b") and manifest.fields[0].dtype == "float32"
    for example in contents(tmp_path / "packed"):
        number = int(example["name.txt"][1:])
        assert example["features.npy"].tolist() == [number + 0.5, number] and example["label.cls"] == number % 2


def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for part in range(2):
        table = pa.table(
            {
                "vector": pa.array([[n, n + 1.0] for n in range(5)], pa.list_(pa.float64(), 2)),
                "image": [{"bytes": png(np.full((2, 2), n + 5 * part, np.uint8)), "path": "x"} for n in range(5)],
                "label": [n + 5 * part for n in range(5)],
                "x": pa.array([float(n) for n in range(5)], pa.float64()),
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / "parts" / f"{part}.parquet")
    manifest = pack(str(tmp_path / "parts"), tmp_path / "packed", ALL_TRAIN)
    assert {f.name: (f.dtype, f.shape) for f in manifest.fields} == {
        "features": ("float64", (1,)),
        "image": ("uint8", (2, 2)),
        "image_path": (None, None),
        "label": ("int64", ()),
        "vector": ("float64", (2,)),
    }
    for example in contents(tmp_path / "packed"):
        label = example["label.cls"]
        assert example["image.png"][0, 0, 0] == label and example["vector.npy"].tolist() == [label % 5, label % 5 + 1.0]


def test_npz_and_npy(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz", 120)
    arrays = np.load(source)
    pack(str(source), tmp_path / "packed", ALL_TRAIN)
    found = contents(tmp_path / "packed")
    order = [int(example["__key__"]) for example in found]
    assert order == list(range(120))
    raw = {image.tobytes(): label for image, label in zip(arrays["image"], arrays["label"], strict=True)}
    assert {e["image.npy"].tobytes(): e["label.cls"] for e in found} == raw
    np.save(tmp_path / "plain.npy", np.arange(12.0).reshape(6, 2))
    pack(str(tmp_path / "plain.npy"), tmp_path / "packed_npy", ALL_TRAIN)
    assert sorted(example["x.npy"].tolist() for example in contents(tmp_path / "packed_npy")) == [
        [2.0 * n, 2.0 * n + 1] for n in range(6)
    ]


def test_existing_tars_are_taken_over_byte_by_byte(tmp_path: Path) -> None:
    images = [png(np.full((3, 3), n, np.uint8)) for n in range(10)]
    with webdataset.ShardWriter(str(tmp_path / "part-%06d.tar"), maxcount=4, verbose=0) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"k{number}", "png": image, "cls": number, "json": {"n": number}})
    manifest = pack(str(tmp_path / "part-{000000..000002}.tar"), tmp_path / "packed", ALL_TRAIN)
    assert [f.name for f in manifest.fields] == ["cls", "json", "png"] and manifest.label == "cls"
    shards = [str(file) for file in (tmp_path / "packed").glob("*/*.tar")]
    raw = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert {(e["png"], int(e["cls"])) for e in raw} == {(image, n) for n, image in enumerate(images)}


def numbers() -> Iterator[dict[str, Any]]:
    for number in range(20):
        yield {"x": np.float32(number), "text": f"n{number}", "meta": {"n": number}, "flag": number % 2 == 0}


def test_function(tmp_path: Path) -> None:
    manifest = pack("tests.unit.packing.test_sources:numbers", tmp_path / "packed", ALL_TRAIN)
    assert [f.member for f in manifest.fields] == ["flag.cls", "meta.json", "text.txt", "x.npy"]
    assert {(e["x.npy"].item(), e["text.txt"], e["meta.json"]["n"]) for e in contents(tmp_path / "packed")} == {
        (float(n), f"n{n}", n) for n in range(20)
    }


def npz(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "bad.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    return str(folder / "bad.npz")


def text(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def empty_class(folder: Path) -> str:
    (class_folders(folder / "photos") / "eel").mkdir()
    return str(folder / "photos")


def broken_image(folder: Path) -> str:
    (class_folders(folder / "photos") / "dog" / "3.png").write_bytes(b"no image")
    return str(folder / "photos")


def pickled(folder: Path) -> str:
    np.save(folder / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    return str(folder / "x.npy")


def truncated_npz(folder: Path) -> str:
    file = Path(npz(folder, x=np.arange(1000)))
    file.write_bytes(file.read_bytes()[:500])
    return str(file)


def corrupt_npz(folder: Path) -> str:
    np.savez_compressed(folder / "bad.npz", x=np.arange(5000))
    data = bytearray((folder / "bad.npz").read_bytes())
    data[200:300] = bytes(100)
    return binary(folder, "bad.npz", bytes(data))


def alien_npz(folder: Path) -> str:
    with zipfile.ZipFile(folder / "bad.npz", "w") as archive:
        archive.writestr("hello.txt", "hi")
    return str(folder / "bad.npz")


def image_bomb(folder: Path) -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    (folder / "photos" / "a").mkdir(parents=True)
    (folder / "photos" / "a" / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return str(folder / "photos")


def binary(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def parquet(folder: Path, **columns: Any) -> str:
    pyarrow.parquet.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


def unlike_parts(folder: Path) -> str:
    pyarrow.parquet.write_table(pa.table({"x": [1.0], "label": [0]}), folder / "0.parquet")
    pyarrow.parquet.write_table(pa.table({"x": [1.0]}), folder / "1.parquet")
    return str(folder)


def npy(array: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tar(folder: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return str(folder / "x.tar")


def pickle_tar(folder: Path) -> str:
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("k0.pyd"), BytesIO())
    return str(folder / "x.tar")


def ragged() -> Iterator[dict[str, Any]]:
    yield {"x": np.zeros(3)}
    yield {"x": np.zeros(4)}


def failing() -> Iterator[dict[str, Any]]:
    yield {"x": 1}
    raise RuntimeError("disk on fire")


HERE = "tests.unit.packing.test_sources"
REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (
        lambda f: str(f / "none.csv"),
        "none.csv: expected a folder of images, sounds or texts by class, .csv, .* no such file",
    ),
    "empty folder": (lambda f: str(f), "expected a folder of images.*found an empty folder"),
    "empty file": (lambda f: text(f, "a.csv", ""), "a.csv: expected data, found an empty file"),
    "only a header": (lambda f: text(f, "a.csv", "x,label\n"), "a.csv: expected rows, found none"),
    "unknown kind": (lambda f: text(f, "a.docx", "x"), r"found a file ending in '\.docx'"),
    "not a tar": (lambda f: text(f, "a.tar", "x" * 700), "a.tar, at byte 0: expected a tar header, found other bytes"),
    "class without images": (empty_class, r"photos/eel: expected images, found none"),
    "broken image": (
        broken_image,
        r"dog/3.png, field 'image': expected a readable image, found ValueError: no image that Pillow",
    ),
    "unequal lengths": (lambda f: npz(f, x=[1, 2], y=[1]), "expected arrays of one length above 0, found x 2, y 1"),
    "no examples": (lambda f: npz(f, x=np.zeros((0, 3))), "expected arrays of one length above 0, found x 0"),
    "nan": (lambda f: npz(f, x=[1.0, np.nan]), "example 1, field 'x': expected finite numbers, found NaN or infinity"),
    "infinity": (lambda f: npz(f, x=[[1.0], [np.inf]]), "example 1, field 'x': expected finite numbers"),
    "pickled array": (pickled, "expected arrays without pickled objects, found ValueError"),
    "pickled member": (pickle_tar, r"x.tar, 'k0.pyd', at byte 0: expected data, found a .pyd; store the value as"),
    "nan in csv": (
        lambda f: text(f, "a.csv", "x,y\n1,2\nnan,3\n"),
        r"a.csv, row 1, column 'x': expected a finite number \(float64\), found an empty or NaN cell, 1 of 2 rows",
    ),
    "empty cell": (lambda f: text(f, "a.csv", "x,y\n1,2\n1,\n"), "row 1, column 'y': .* found an empty or NaN cell"),
    "truncated npz": (truncated_npz, r"bad.npz: expected arrays without pickled objects, found BadZipFile"),
    "corrupt npz": (corrupt_npz, r"bad.npz: expected arrays without pickled objects, found error: Error -3"),
    "npz with another file": (alien_npz, r"bad.npz, 'hello.txt': expected an array, found other bytes"),
    "64 bits without sign": (lambda f: npz(f, x=np.uint64([1, 2**63])), "example 1, .* found 9223372036854775808"),
    "image too large": (image_bomb, r"1.png, field 'image': expected a readable image, found .*exceeds limit"),
    "empty label": (lambda f: text(f, "a.csv", "x,label\n1,a\n2,\n"), "column 'label': .* found an empty cell"),
    "column twice": (lambda f: text(f, "a.csv", "x,x\n1,2\n"), "expected columns of different names, found 'x' twice"),
    "column features": (
        lambda f: text(f, "a.csv", "features,x\na,1\n"),
        "expected no column 'features' beside columns of numbers",
    ),
    "too large for float64": (
        lambda f: text(f, "a.csv", "x,y\n1,2\n1e400,2\n"),
        r"row 1, column 'x': expected a finite number \(float64\), found inf",
    ),
    "not UTF-8": (lambda f: binary(f, "a.csv", b"\xffa,b\n1,2\n"), "a.csv: expected text in UTF-8"),
    "empty place in a list": (
        lambda f: parquet(f, v=pa.array([[1, None], [2, 3]])),
        "row 0, column 'v': expected lists without empty places, found an empty cell, 1 of 2 rows",
    ),
    "unlike parts": (unlike_parts, r"1.parquet: expected the columns of the first file \(label int64\), found none"),
    "two members of one field": (
        lambda f: tar(f, {"k.seg.bin": b"", "k.seg.json": b"{}"}),
        r"x.tar, example 'k': expected one member for a field, .* found .seg.bin, .seg.json; rename one",
    ),
    "empty array member": (lambda f: tar(f, {"k.npy": b""}), "field 'npy': expected a readable .npy, found ValueError"),
    "cut array member": (
        lambda f: tar(f, {"k.npy": npy(np.ones(9))[:-8]}),
        "found ValueError: 64 bytes of content for",
    ),
    "extension with a space": (lambda f: tar(f, {"k.a.b c": b""}), "expected an extension of at most 64 of a-z, 0-9"),
    "extension beyond ASCII": (lambda f: tar(f, {"k.a.größe": b""}), "expected an extension of at most 64 of a-z"),
    "long extension": (lambda f: tar(f, {"k.a." + "b" * 95: b""}), "expected an extension of at most 64 of a-z"),
    "ragged": (lambda _: f"{HERE}:ragged", r"example 1, field 'x': expected float64 of shape \(3,\), found .*\(4,\)"),
    "failing function": (lambda _: f"{HERE}:failing", "found RuntimeError: disk on fire after 1 examples"),
    "no such function": (lambda _: f"{HERE}:nothing", "expected an importable function, found AttributeError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_promise_10_bad_sources_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    make, message = REFUSED[case]
    source = make(tmp_path / "raw")
    with pytest.raises(DataError) as raised:
        pack(source, tmp_path / "packed", ALL_TRAIN)
    assert re.search(message, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).count("; ") >= 1
    assert not list(tmp_path.glob("packed*")) and not list(tmp_path.glob(".packed*"))


def test_integers_of_both_signs_are_arrays_and_lose_nothing(tmp_path: Path) -> None:
    for values in ([0, 1, -1, 12], [-1, 0, 1, 12]):
        folder = tmp_path / str(values[0])
        folder.mkdir()
        manifest = pack(npz(folder, x=values, label=values), folder / "packed", ALL_TRAIN)
        field = manifest.fields[1]
        assert (field.member, field.dtype, field.shape, field.low, field.high) == ("x.npy", "int64", (), -1, 12)
        assert manifest.splits["train"].class_counts == dict.fromkeys(values, 1)
        assert sorted(example["x.npy"].item() for example in contents(folder / "packed")) == sorted(values)


def test_strings_in_arrays_are_text(tmp_path: Path) -> None:
    pack(npz(tmp_path, x=["ä", "bb"]), tmp_path / "packed", ALL_TRAIN)
    assert sorted(example["x.txt"] for example in contents(tmp_path / "packed")) == ["bb", "ä"]


def test_csv_column_that_begins_with_integers_may_go_on_with_fractions(tmp_path: Path) -> None:
    """pyarrow tells types from the first megabyte."""
    source = text(tmp_path, "a.csv", "x,label\n" + "1,0\n" * 400_000 + "1.5,1\n")
    manifest = pack(source, tmp_path / "packed", PackOptions(splits=(1.0, 0.0, 0.0), shard_examples=400_001))
    assert manifest.splits["train"].class_counts == {0: 400_000, 1: 1}


def test_parquet_keeps_small_types_and_nested_lists(tmp_path: Path) -> None:
    source = parquet(tmp_path, a=pa.array([1, 2], pa.int8()), b=pa.array([3, 4], pa.int8()), m=[[[1.0, 2.0]]] * 2)
    features, nested = pack(source, tmp_path / "packed", ALL_TRAIN).fields
    assert (features.dtype, features.shape) == ("int8", (2,)) and (nested.dtype, nested.shape) == ("float64", (1, 2))


def test_label_of_an_image_folder_that_is_no_field(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a field 'kind', found image, label; set --label"):
        pack(str(class_folders(tmp_path / "photos")), tmp_path / "packed", PackOptions(label="kind"))


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        ((0.7, 0.3, 0.0), [52, 23]),
        ((0.7, 0.0, 0.3), [52, 23]),
        ((1.0, 0.0, 0.0), [75]),
        ((0.5, 0.3, 0.2), [38, 22, 15]),
    ],
)
def test_no_example_is_lost_in_rounding(splits: tuple[float, float, float], counts: list[int], tmp_path: Path) -> None:
    manifest = pack(npz(tmp_path, x=np.arange(75)), tmp_path / "packed", PackOptions(splits=splits))
    assert [split.examples for split in manifest.splits.values()] == counts


def test_label_that_is_no_field(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz", 20)
    with pytest.raises(SourceError, match="expected a field 'class', found image, label; set --label"):
        pack(str(source), tmp_path / "packed", PackOptions(label="class"))


def test_split_without_examples(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz", 4)
    with pytest.raises(SourceError, match=r"expected at least one example for validation \(0.1 of all\), found 4"):
        pack(str(source), tmp_path / "packed")


@pytest.mark.parametrize("splits", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.5, -0.5, 0.0)])
def test_wrong_fractions(splits: tuple[float, float, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="splits: expected three fractions that sum to 1"):
        pack("nowhere", tmp_path / "packed", PackOptions(splits=splits))


def test_destination_that_is_not_empty(tmp_path: Path) -> None:
    source = save_digits(tmp_path / "digits.npz", 20)
    with pytest.raises(ConfigError, match="expected a new or empty folder, found a folder that is not empty"):
        pack(str(source), tmp_path)
    (tmp_path / "empty").mkdir()
    assert isinstance(pack(str(source), tmp_path / "empty"), Manifest)
    with pytest.raises(DataError):
        read_manifest(tmp_path)
