"""Sources that are read by ranges: the same data set in any parts; tables of every kind, Hugging Face, large arrays."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import webdataset

import streamtrain as st
from streamtrain.errors import SourceError
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.shuffling.scatter import ranges
from streamtrain.packing.sources import open_source
from tests.support.packing import AnyOrder, files

N = 90
TABLE = {"x": [n / 2 for n in range(N)], "y": list(range(N)), "label": [f"c{n % 3}" for n in range(N)]}
TEXTS = {"text": [f"number {n}" for n in range(N)], "label": [n % 3 for n in range(N)]}
ALL = PackOptions((1, 0, 0), seed=5, shard_examples=20)


def csv_folder(folder: Path) -> Path:
    for part in range(3):
        pyarrow.csv.write_csv(pa.table(TABLE).slice(30 * part, 30), folder / f"{part}.csv")
    return folder


def parquet(folder: Path) -> Path:
    pyarrow.parquet.write_table(pa.table(TABLE), folder / "a.parquet", row_group_size=11)
    return folder / "a.parquet"


def parquet_folder(folder: Path) -> Path:
    for part in range(3):
        pyarrow.parquet.write_table(pa.table(TEXTS).slice(30 * part, 30), folder / f"{part}.parquet", row_group_size=8)
    return folder


def feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(pa.table(TABLE), folder / "a.feather", chunksize=13)
    return folder / "a.feather"


def arrow_stream(folder: Path) -> Path:
    table = pa.table(TEXTS)
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table, 17)
    return folder / "a.arrow"


def saved_by_huggingface(folder: Path) -> Path:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["red", "green", "blue"])}
    )
    parts = {
        name: datasets.Dataset.from_dict({key: column[cut] for key, column in TEXTS.items()}, features=features)
        for name, cut in (("train", slice(0, 60)), ("test", slice(60, N)))
    }
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    return folder / "saved"


def tars(folder: Path) -> Path:
    with webdataset.ShardWriter(str(folder / "part-%06d.tar"), maxcount=25, verbose=0) as writer:
        for n in range(N):
            writer.write({"__key__": f"k{n}", "txt": "x" * n, "cls": n % 3})
    return folder


def arrays(folder: Path, save: Callable[..., None] = np.savez, order: str = "C") -> Path:
    matrix = np.asarray(np.arange(N * 6).reshape(N, 6), ">i4", order=order)
    save(folder / "a.npz", x=matrix, y=np.linspace(0, 1, N), label=np.arange(N, dtype=np.uint8))
    return folder / "a.npz"


def npy_folder(folder: Path) -> Path:
    np.save(folder / "x.npy", np.asfortranarray(np.arange(N * 6.0).reshape(N, 6)))
    np.save(folder / "flag.npy", np.arange(N) % 2 == 0)
    return folder


SOURCES: dict[str, Callable[[Path], Path]] = {
    "csv folder": csv_folder,
    "parquet": parquet,
    "parquet folder": parquet_folder,
    "feather": feather,
    "arrow stream": arrow_stream,
    "hugging face": saved_by_huggingface,
    "tars": tars,
    "npz": arrays,
    "compressed npz": lambda folder: arrays(folder, np.savez_compressed),
    "fortran npz": lambda folder: arrays(folder, order="F"),
    "compressed fortran npz": lambda folder: arrays(folder, np.savez_compressed, "F"),
    "npy folder": npy_folder,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_any_parts_give_the_same_data_set(kind: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    source = SOURCES[kind](tmp_path / "raw")
    whole = pack(source, tmp_path / "whole", ALL)
    opened = open_source(str(source))
    parts = ranges(opened, 3, 2_000)
    assert whole.examples == N == sum(stop - start for start, stop in parts if stop is not None)
    assert (len(parts) > 1) == (not kind.startswith("compressed"))
    one_by_one = [values for _, values in opened.examples(0)]
    for start in (1, 30, 57, N - 1):
        rest = [values for _, values in opened.examples(start)]
        assert repr(rest) == repr(one_by_one[start:])
    in_parts = PackOptions((1, 0, 0), seed=5, shard_examples=20, tasks=3, memory_bytes=6_000)
    pack(source, tmp_path / "parts", in_parts, spread=AnyOrder(1))
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_numbers_of_a_table_are_the_same_in_every_format(tmp_path: Path) -> None:
    found = []
    for kind in ("parquet", "feather"):
        (tmp_path / kind).mkdir()
        pack(SOURCES[kind](tmp_path / kind), tmp_path / f"{kind} packed", ALL)
        found.append(st.open(tmp_path / f"{kind} packed")[0:N])
    assert found[0]["features"].dtype == np.float64 and found[0]["features"].shape == (N, 2)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in ("features", "label"))
    y = found[0]["features"][:, 1].astype(int)
    assert sorted(y) == TABLE["y"] and np.array_equal(found[0]["label"], y % 3)


def test_hugging_face_splits_and_classes(tmp_path: Path) -> None:
    source = saved_by_huggingface(tmp_path)
    manifest = pack(source, tmp_path / "packed", ALL)
    assert manifest.fields[0].classes == ("red", "green", "blue") and manifest.examples == N
    assert pack(f"{source}/test", tmp_path / "test", ALL).examples == 30
    (tmp_path / "saved" / "test" / "state.json").write_text("{}")
    with pytest.raises(SourceError, match="saved/test: expected a data set, found .*; check the name"):
        pack(f"{source}/test", tmp_path / "broken", ALL)


def test_other_columns_in_a_further_file_are_refused(tmp_path: Path) -> None:
    csv_folder(tmp_path)
    (tmp_path / "3.csv").write_text("x,y,label,extra\n1,2,c1,3\n")
    with pytest.raises(SourceError, match=r"3.csv: expected the columns of the first file .*, found extra; bring all"):
        pack(tmp_path, tmp_path.parent / f"{tmp_path.name}-packed", ALL)


def test_a_damaged_npz_is_told_by_its_checksum(tmp_path: Path) -> None:
    file = arrays(tmp_path)
    data = bytearray(file.read_bytes())
    data[400] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"a.npz: expected arrays without pickled objects, found BadZipFile: Bad CRC"):
        pack(file, tmp_path / "packed", ALL)


def test_appended_classes_go_by_their_names(tmp_path: Path) -> None:
    for name, labels in (("first", "abc"), ("second", "bc"), ("third", "bd")):
        rows = "".join(f"{n},{labels[n % len(labels)]}\n" for n in range(30))
        (tmp_path / f"{name}.csv").write_text("x,label\n" + rows)
    pack(tmp_path / "first.csv", tmp_path / "a", ALL)
    grown = append(tmp_path / "second.csv", tmp_path / "a", ALL)
    assert grown.fields[1].classes == ("a", "b", "c")
    assert grown.splits["train"].class_counts == {0: 10, 1: 25, 2: 25}
    with pytest.raises(SourceError, match=r"field 'label': expected the classes of .*a: a, b, c, found d; pack all"):
        append(tmp_path / "third.csv", tmp_path / "a", ALL)


def test_keys_stay_unique_when_their_numbers_get_longer(tmp_path: Path) -> None:
    for count in (9, 95):
        np.savez(tmp_path / f"{count}.npz", x=np.arange(count))
    pack(tmp_path / "9.npz", tmp_path / "a", ALL)
    grown = append(tmp_path / "95.npz", tmp_path / "a", ALL)
    first, *others = grown.splits["train"].shards
    assert (first.first_key, first.last_key, others[0].first_key, others[-1].last_key) == ("0", "8", "009", "103")
    assert [segment.seed for segment in grown.segments] == [5, 6], "a seed of its own"
