"""What `pack` says of a source: every column and kind of file, what was left out and why; said again by `inspect`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

import streamtrain as st
from streamtrain.errors import ManifestError
from streamtrain.inspect.card import inspect_dataset
from streamtrain.inspect.card import report as card
from streamtrain.packing import PackOptions, pack
from streamtrain.packing.packing import append
from streamtrain.packing.report import as_text, read_report, report_file, to_json
from tests.support.command import streamtrain
from tests.support.packing import files


def mixed_pictures(root: Path) -> Path:
    """Of several modes and formats by class, with a file that is none."""
    modes = {"RGB": "png", "L": "png", "RGBA": "png", "P": "gif", "1": "bmp", "CMYK": "jpg", "LA": "png"}
    for at, (mode, suffix) in enumerate(modes.items()):
        for name in ("cat", "dog"):
            (root / name / "more").mkdir(parents=True, exist_ok=True)
            place = root / name if at % 2 else root / name / "more"
            Image.new(mode, (6, 5)).save(place / f"{mode}.{suffix}")
    (root / "cat/notes.md").write_text("of no kind")
    (root / "README.txt").write_text("about it")
    return root


def test_every_kind_of_file_is_counted(tmp_path: Path) -> None:
    pack(mixed_pictures(tmp_path / "photos"), tmp_path / "packed")
    report = read_report((tmp_path / "packed" / report_file(0)).read_bytes(), "report")
    taken = {c.name: (c.kind, c.field) for c in report.columns if c.name.startswith(".")}
    assert taken == {
        ".bmp": ("2 files", "image"),
        ".gif": ("2 files", "image"),
        ".jpg": ("2 files", "image"),
        ".png": ("8 files", "image"),
        ".md": ("1 files", None),
        ".txt": ("1 files", None),
    }
    assert "2 bmp, 2 gif, 2 jpg, 8 png" in {c.kind for c in report.columns}
    (folders,) = (c for c in report.columns if c.field == "label")
    assert folders.became == "2 classes" and folders.note.startswith("8 files lie in folders inside of a class")
    assert sum(report.examples.values()) == 14 and report.split_by == "fractions"


def columns(file: Path, start: int = 0) -> Path:
    rows = range(start, start + 50)
    made = pa.table(
        {
            "x": [float(n) for n in rows],
            "empty": [None if n % 5 == 0 else float(n) for n in rows],
            "name": [f"name {n}" for n in rows],
            "label": [("a", "b")[n % 2] for n in rows],
        }
    )
    pyarrow.parquet.write_table(made, file)
    return file


def test_columns_of_a_table_and_inspect_says_them_again(tmp_path: Path) -> None:
    source = columns(tmp_path / "a.parquet")
    for dest in ("json", "text"):
        words = ("pack", str(source), str(tmp_path / dest), "--missing", "nan", *(["--json"] if dest == "json" else []))
        said = streamtrain(*words)
        assert said.returncode == 0, said.stderr
        if dest == "json":
            found = json.loads(said.stdout)["report"]["columns"]
            assert {c["name"] for c in found} == {"x", "empty", "name", "label"}
            (empty,) = (c for c in found if c["name"] == "empty")
            assert (empty["missing"], empty["low"], empty["high"], empty["field"]) == (10, 1.0, 49.0, "features")
            continue
        table = said.stdout.rpartition("\n")[0].splitlines()
        assert [line.split()[0] for line in table[1:5]] == ["x", "empty", "name", "label"]
        shown = card(inspect_dataset(str(tmp_path / dest)))
        assert all(line in shown.splitlines() for line in table[:5]), shown


def test_every_segment_has_its_report(tmp_path: Path) -> None:
    pack(columns(tmp_path / "a.parquet"), tmp_path / "packed", PackOptions(drop=("empty",)))
    append(
        columns(tmp_path / "b.parquet", 50), tmp_path / "packed", PackOptions(drop=("empty",), splits=(0.0, 0.0, 1.0))
    )
    found = inspect_dataset(str(tmp_path / "packed"))["packed"]
    assert [(packed["source"], packed["examples"]) for packed in found] == [
        ("a.parquet", {"train": 40, "validation": 5, "test": 5}),
        ("b.parquet", {"test": 50}),
    ]
    (dropped,) = (c for c in found[0]["columns"] if c["name"] == "empty")
    assert dropped["field"] is None and "as asked (--drop)" in dropped["became"]


def test_the_same_source_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        pack(columns(tmp_path / place / "a.parquet"), tmp_path / place / "packed", PackOptions(drop=("empty",)))
    assert files(tmp_path / "one/packed") == files(tmp_path / "other/packed")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    values = np.arange(60.0).reshape(30, 2)
    values[5] = np.nan
    values[9] = values[8]
    np.savez(tmp_path / "a.npz", x=values)
    options = PackOptions(on_bad_example="skip", unique="once", splits=(1.0, 0.0, 0.0))
    pack(tmp_path / "a.npz", tmp_path / "packed", options)
    report = read_report((tmp_path / "packed" / report_file(0)).read_bytes(), "report")
    assert (report.bad, report.repeated, report.examples) == (1, 1, {"train": 28})
    text = as_text(report)
    assert "left out: 1 examples that repeat an earlier one" in text
    assert "a.npz, example 5: field 'x': expected finite numbers, found NaN or infinity" in text
    assert read_report(to_json(report), "again") == report


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"source": 1, "columns": [1]}', b"\xff"])
def test_damaged_reports_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ManifestError, match="about/0: expected a report of pack"):
        read_report(data, "about/0")


def test_open_knows_classes_and_columns(tmp_path: Path) -> None:
    pack(columns(tmp_path / "a.parquet"), tmp_path / "packed", PackOptions(missing="nan"))
    opened = st.open(tmp_path / "packed")
    assert opened.classes == ("a", "b") and opened.columns == {"features": ("x", "empty")}
    np.savez(tmp_path / "a.npz", x=np.arange(10.0))
    pack(tmp_path / "a.npz", tmp_path / "plain")
    assert st.open(tmp_path / "plain").classes == () and st.open(tmp_path / "plain").columns == {}
