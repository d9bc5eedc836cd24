"""What becomes of a table's columns: types, missing cells, categories, indices, folders, and growing ones."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

import streamtrain as st
from streamtrain.errors import ConfigError, SourceError
from streamtrain.packing.packing import append
from streamtrain.packing.sources import open_source
from streamtrain.shards import Manifest, read_manifest

WHOLE = (1.0, 0.0, 0.0)


def options(**given: Any) -> st.PackOptions:
    return st.PackOptions(splits=WHOLE, **given)


def csv(folder: Path, text: str) -> Path:
    file = folder / "t.csv"
    file.write_text(text)
    return file


def parquet(folder: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def packed(source: Path, **given: Any) -> tuple[Manifest, dict[str, Any]]:
    """The manifest, and all examples in the order of ``row`` where there is such a field, else of the label."""
    folder = source.parent / f"packed{len(list(source.parent.iterdir()))}"
    manifest = st.pack(source, folder, options(**given))
    data = st.open(folder)
    found = data[0 : len(data)]
    order = np.argsort(found["label"], kind="stable")
    return manifest, {name: values[order] for name, values in found.items()}


def forms(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    return {field.name: (field.dtype, field.columns or field.classes or field.shape) for field in manifest.fields}


def test_the_vector_has_the_narrowest_type_that_holds_every_number(tmp_path: Path) -> None:
    rows = [(n + 0.5, n / 7, 2**53 + n, 1_600_000_000 + n, f"{n:05d}", n) for n in range(5)]
    text = "half,third,id,time,zip,label\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    manifest, found = packed(csv(tmp_path, text))
    assert forms(manifest) == {
        "features": ("float64", ("half", "third", "time")),
        "id": ("int64", ()),
        "zip": (None, None),
        "label": ("int64", ()),
    }
    assert found["features"].tolist() == [[row[0], row[1], row[3]] for row in rows]
    assert found["id"].tolist() == [row[2] for row in rows] and found["zip"].tolist() == [row[4] for row in rows]


@pytest.mark.parametrize(
    ("columns", "features", "own"),
    [
        ({"a": pa.array([1, 2], pa.int8()), "b": pa.array([0.5, 1], pa.float32())}, "float32", {}),
        ({"a": pa.array([1 << 24, (1 << 24) + 1]), "b": pa.array([0.5, 1], pa.float32())}, "float64", {}),
        ({"a": pa.array([1, (1 << 53) + 1]), "b": pa.array([0.5, 1])}, "float64", {"a": "int64"}),
        ({"a": pa.array([1, 1 << 63], pa.uint64()), "b": pa.array([-1, 1])}, "int64", {"a": "uint64"}),
        ({"a": pa.array([1, 1 << 63], pa.uint64())}, "uint64", {}),
        ({"a": pa.array([0.5, 2], pa.float16()), "b": pa.array([3, 2048])}, "float16", {}),
    ],
)
def test_numbers_keep_their_type(
    columns: dict[str, pa.Array], features: str, own: dict[str, str], tmp_path: Path
) -> None:
    manifest, found = packed(parquet(tmp_path, **columns, label=[0, 1]))
    assert {f.name: f.dtype for f in manifest.fields} == {"features": features, **own, "label": "int64"}
    vector = manifest.field_named("features")
    assert vector is not None and vector.columns is not None
    for name, values in columns.items():
        got = found[name] if name in own else found["features"][:, vector.columns.index(name)]
        assert got.tolist() == values.to_pylist()


def test_types_decide(tmp_path: Path) -> None:
    source = csv(tmp_path, "id,x,code,label\n1,0.1,7,0\n2,0.2,8,1\n")
    manifest, found = packed(source, types=("id=int64", "features=float32", "code=text"))
    assert forms(manifest) == {
        "features": ("float32", ("x",)),
        "id": ("int64", ()),
        "code": (None, None),
        "label": ("int64", ()),
    }
    assert found["code"].tolist() == ["7", "8"] and found["features"][0, 0] == np.float32(0.1)
    with pytest.raises(SourceError, match=r"row 0, column 'x': expected int64, found '0.1': .*--types x=TYPE"):
        packed(source, types=("x=int64",))
    with pytest.raises(ConfigError, match="types: expected NAME=TYPE, of int8, .* found 'x=int65'"):
        options(types=("x=int65",))
    with pytest.raises(SourceError, match="expected a column 'y', found id, x, code, label; set --types"):
        packed(source, types=("y=int64",))


def test_labels_007_and_7_are_two_classes(tmp_path: Path) -> None:
    manifest, _ = packed(csv(tmp_path, "x,label\n1,007\n2,7\n"))
    assert manifest.fields[1].classes == ("007", "7")


def test_missing_numbers_are_refused_by_row_with_their_count(tmp_path: Path) -> None:
    source = csv(tmp_path, "x,y,label\n1,2,0\n,2,1\n3,NA,2\n,5,3\n")
    with pytest.raises(SourceError) as raised:
        packed(source)
    assert re.search(r"t.csv, row 1, column 'x': .* cell, 2 of 4 rows, 1 of 'y'; set --missing nan", str(raised.value))


@pytest.mark.parametrize(
    ("missing", "x", "labels"),
    [("nan", [1, np.nan, 3, np.nan], [0, 1, 2, 3]), ("mean", [1, 2, 3, 2], [0, 1, 2, 3]), ("drop", [1], [0])],
)
def test_missing_numbers(missing: Any, x: list[float], labels: list[int], tmp_path: Path) -> None:
    source = csv(tmp_path, "x,y,label\n1,2,0\n,2,1\n3,NA,2\n,5,3\n")
    manifest, found = packed(source, missing=missing, mask=True)
    np.testing.assert_array_equal(found["features"][:, 0], x)
    assert found["label"].tolist() == labels and manifest.examples == len(labels)
    if missing == "drop":
        assert "features_missing" not in found
    else:
        assert found["features_missing"].tolist() == [[False, False], [True, False], [False, True], [True, False]]
    columns = {column.name: column for column in open_source(str(source), options(missing=missing)).columns}
    assert columns["x"].missing == 2 and re.match("2 missing(:| became) ", columns["x"].note)


def test_missing_texts_lists_and_times(tmp_path: Path) -> None:
    source = parquet(tmp_path, t=["a", None], v=[[1.0, None], [2.0, 3.0]], label=[0, 1])
    with pytest.raises(SourceError, match=r"row 1, column 't': expected a value, found an empty cell, 1 of 2 rows"):
        packed(source)
    _, found = packed(source, missing="nan")
    assert found["t"].tolist() == ["a", ""] and np.isnan(found["v"][0, 1])
    source = parquet(tmp_path, at=pa.array([None, 1], pa.timestamp("s")), label=[0, 1])
    with pytest.raises(SourceError, match="nothing stands for a missing time; set --missing drop, or --drop at"):
        packed(source, missing="nan")
    assert packed(source, missing="drop")[0].examples == 1


def test_dropped_rows_are_dropped_alike_whatever_the_tasks(tmp_path: Path) -> None:
    values = [None if n % 3 == 0 else float(n) for n in range(100)]
    source = open_source(str(parquet(tmp_path, x=values, label=list(range(100)))), options(missing="drop"))
    assert source.count == 66 and source.batches is not None
    labels = [example["label"] for _, example in source.examples(10)]
    assert labels == [n for n in range(100) if n % 3][10:]
    assert [n for batch in source.batches(10, 20) for n in batch.values["label"]] == labels[:10]
    assert next(iter(source.examples(10)))[0].endswith(f"row {labels[0]}")


def test_texts_that_come_often_become_categories(tmp_path: Path) -> None:
    text = "port,name,day,label\n" + "".join(f"{'CQS'[n % 3]},n{n},2024-01-0{n % 2 + 1},{n}\n" for n in range(300))
    manifest, found = packed(csv(tmp_path, text))
    assert forms(manifest)["port"] == ("int64", ("C", "Q", "S")) and forms(manifest)["name"] == (None, None)
    assert found["port"].tolist() == [n % 3 for n in range(300)] and found["day"][0] == "2024-01-01"
    assert forms(packed(tmp_path / "t.csv", categories=())[0])["port"] == (None, None)
    days = packed(tmp_path / "t.csv", categories=("day",))[0].field_named("day")
    assert days is not None and days.classes == ("2024-01-01", "2024-01-02")


def test_the_row_numbers_of_pandas_are_left_out_with_a_line(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "label": [0, 1, 2]}, index=[7, 8, 9])
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv")
    for name, index in (("t.parquet", "__index_level_0__"), ("t.csv", "")):
        columns = {column.name: column for column in open_source(str(tmp_path / name)).columns}
        assert columns[index].field is None and "row numbers that pandas writes" in columns[index].became
        assert forms(packed(tmp_path / name)[0])["features"][1] == ("x",)
    taken, _ = packed(tmp_path / "t.parquet", columns=("__index_level_0__", "x"))
    assert forms(taken)["features"][1] == ("x", "__index_level_0__")


def test_columns_that_are_asked_for_or_left_out(tmp_path: Path) -> None:
    source = csv(tmp_path, "Fare Paid,b,c,label\n1,2,3,0\n4,5,6,1\n")
    assert forms(packed(source, columns=("fare_paid", "c"))[0])["features"][1] == ("Fare Paid", "c")
    assert forms(packed(source, drop=("b",))[0])["features"][1] == ("Fare Paid", "c")
    with pytest.raises(ConfigError, match="drop: expected other columns, found 'b', which is asked for"):
        options(drop=("b",), columns=("b",))


def test_names_become_names_of_fields(tmp_path: Path) -> None:
    source = csv(tmp_path, "Ticket No.,ticket_no,Größe,Label\nA 1,B 1,x,yes\nA 2,B 2,y,no\n")
    manifest = st.pack(source, tmp_path / "packed", options(label="Label"))
    assert [f.name for f in manifest.fields] == [
        "gr_e",
        "label",
        "ticket_no",
        "ticket_no_2",
    ] and manifest.label == "label"


def test_what_was_done_to_a_column_is_reported(tmp_path: Path) -> None:
    source = csv(tmp_path, "x,y,t,label\n0.1,0.5,,0\n0.2,1.5,a,1\n")
    columns = {c.name: c.note for c in open_source(str(source), options(types=("features=float32",))).columns}
    assert columns == {"x": "rounded to float32, as asked", "y": "", "t": "1 empty", "label": ""}


def test_what_a_mask_or_emptiness_would_hide_is_refused_or_kept(tmp_path: Path) -> None:
    source = parquet(tmp_path, x=[1.0, None], features_missing=["a", "b"], label=[0, 1])
    with pytest.raises(SourceError, match="expected no column 'features_missing' beside the mask of that name"):
        packed(source, missing="nan", mask=True)
    with pytest.raises(SourceError, match="t.parquet: expected values, found columns without any value"):
        packed(parquet(tmp_path, x=pa.nulls(2), y=pa.array([None, None], pa.float64())))
    lists = packed(parquet(tmp_path, v=pa.array([[], []], pa.list_(pa.float32())), label=[0, 1]))[1]["v"]
    assert [value.tolist() for value in lists] == [[], []]
    with pytest.raises(SourceError, match="column 'label': .* set --missing drop, or --drop label"):
        packed(parquet(tmp_path, x=[1.0, 2.0], label=[True, None]))


def test_columns_of_every_name_are_reported(tmp_path: Path) -> None:
    source = parquet(tmp_path, **{"a.b": [0.5], "a": [{"c": b"x"}], "No.": ["x"], "label": [0]})
    columns = [(column.name, column.field) for column in open_source(str(source)).columns]
    assert columns == [("a.b", "features"), ("a.c", "a_c"), ("No.", "no"), ("label", "label")]


def test_hugging_faces_columns_keep_names_shapes_and_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    kind = datasets.ClassLabel(names=["n", "p"])
    features = datasets.Features(
        {
            "fixed": datasets.Array2D((2, 3), "float32"),
            "varying": datasets.Array2D((None, 3), "int32"),
            "label": kind,
            "tags": datasets.List(kind),
            "other": kind,
        }
    )
    rows = {
        "fixed": [np.full((2, 3), n, np.float32) for n in range(6)],
        "varying": [np.full((n % 2 + 1, 3), n, np.int32) for n in range(6)],
        "label": [0, 1] * 3,
        "tags": [[0], [1, 0]] * 3,
        "other": [1, 0] * 3,
    }
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "source"))
    manifest, found = packed(tmp_path / "source")
    assert forms(manifest) == {
        "fixed": ("float32", (2, 3)),
        "label": ("int64", ("n", "p")),
        "other": ("int64", ("n", "p")),
        "tags": ("int64", ("n", "p")),
        "varying": ("int32", None),
    }
    assert found["varying"][0].shape == (1, 3) and found["tags"][-1].tolist() == [1, 0]


def test_labels_of_none_of_the_classes_are_refused_with_their_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["n", "p"])})
    labels = {"train": [0, 1] * 5, "test": [-1] * 4}
    made = {
        name: datasets.Dataset.from_dict({"x": [0.5] * len(values), "label": values}, features)
        for name, values in labels.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "source"))
    with pytest.raises(SourceError, match=r"source#test, row 0, column 'label': .* found -1, .* \(4 in .*#test\)"):
        st.pack(tmp_path / "source", tmp_path / "packed", options())
    assert st.pack(f"{tmp_path}/source#train", tmp_path / "packed", options()).examples == 10


def test_what_holds_nothing_is_left_out_with_a_line(tmp_path: Path) -> None:
    source = csv(tmp_path, "x,empty,label\n1,,0\n2,,1\n")
    assert [f.name for f in packed(source)[0].fields] == ["features", "label"]
    column = open_source(str(source)).columns[1]
    assert (column.name, column.field, column.became, column.missing) == (
        "empty",
        None,
        "left out: it holds nothing",
        2,
    )


def test_a_folder_as_spark_leaves_it(tmp_path: Path) -> None:
    root = tmp_path / "t"
    for year, month in (("2020", "01"), ("2021", "02")):
        part = root / f"year={year}" / f"month={month}"
        part.mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"x": [0.5, 1.5], "label": [0, 1]}), part / "part-0.snappy.parquet")
        pyarrow.parquet.write_table(pa.table({"x": pa.array([], pa.float64())}), part / "part-1.snappy.parquet")
        (part / ".part-0.snappy.parquet.crc").write_bytes(b"crc")
    (root / "_SUCCESS").touch()
    manifest, found = packed(root)
    assert manifest.examples == 4 and forms(manifest)["features"] == ("float64", ("x", "year"))
    assert sorted(zip(found["features"][:, 1].tolist(), found["month"].tolist(), strict=True)) == [
        (2020.0, "01"),
        (2020.0, "01"),
        (2021.0, "02"),
        (2021.0, "02"),
    ]
    names = [column.name for column in open_source(str(root)).columns if column.field is None]
    assert "_SUCCESS" in names and ".part-0.snappy.parquet.crc" in names


def test_csv_parts_without_rows_and_of_late_types(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    for number, text in enumerate(("x,label\n1,0\n2,1\n", "", "x,label\n", "x,label\n2.5,2\n")):
        (root / f"part-{number}.csv").write_text(text)
    manifest, found = packed(root)
    assert manifest.examples == 3 and found["features"][:, 0].tolist() == [1, 2, 2.5]


def test_a_first_line_of_numbers_is_no_line_of_names(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="first line: expected names of columns, found numbers"):
        packed(csv(tmp_path, "5.1,3.5,0\n4.9,3.0,1\n"))


def test_a_table_that_grows_keeps_its_fields(tmp_path: Path) -> None:
    def rows(start: int, stop: int, port: str) -> str:
        return "".join(f"{n}.5,{port[n % len(port)]},{n}\n" for n in range(start, stop))

    folder = tmp_path / "packed"
    st.pack(csv(tmp_path, "x,port,label\n" + rows(0, 300, "CQS")), folder, options())
    manifest = append(csv(tmp_path, "x,port,label\n" + rows(300, 310, "SQ")), folder, options())
    assert manifest.examples == 310 and forms(manifest)["port"] == ("int64", ("C", "Q", "S"))
    with pytest.raises(SourceError, match="field 'port': expected the classes of .* found X"):
        append(csv(tmp_path, "x,port,label\n" + rows(0, 9, "X")), folder, options())
    with pytest.raises(SourceError, match=r"column 'x': expected numbers that float32 holds exactly"):
        append(csv(tmp_path, "x,port,label\n0.1,C,0\n"), folder, options())
    assert read_manifest(folder) == manifest


def test_structs_of_media_keep_their_path_and_others_their_parts(tmp_path: Path) -> None:
    media = pa.array([{"bytes": b"\0\1", "path": "a.wav"}, {"bytes": b"\2\0", "path": None}])
    sound = pa.array([{"bytes": b"\1", "rate": 16000}, {"bytes": b"\2", "rate": 8000}])
    manifest, found = packed(parquet(tmp_path, audio=media, sound=sound, label=[0, 1]))
    assert found["audio"].tolist() == [b"\0\1", b"\2\0"] and found["audio_path"].tolist() == ["a.wav", ""]
    assert found["sound_bytes"].tolist() == [b"\1", b"\2"] and forms(manifest)["features"][1] == ("sound.rate",)
    assert found["features"][:, 0].tolist() == [16000, 8000]
