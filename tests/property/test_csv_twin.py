"""Promise 14 over generated CSVs, smaller and larger than a block: as Python's `csv` reads them, or refused by row."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamtrain as st
from streamtrain.errors import SourceError
from streamtrain.packing.sources import source
from streamtrain.packing.sources.tables.reading import csv_text
from streamtrain.shards import read_manifest

ALL_TRAIN = st.PackOptions(splits=(1.0, 0.0, 0.0))
FILES = 200
WORDS = (
    "",
    "a",
    "ä",
    "lorem",
    " x",
    "x ",
    "NA",
    '"',
    '""',
    ",",
    "\n",
    "\r\n",
    "\r",
    "2024-01-31",
    "007",
    "+49",
    "0x1F",
)
KINDS = ("whole", "large", "decimal", "late decimal", "late text", "zeros", "text", "empty")


def cell(kind: str, row: int, rows: int, draw: random.Random) -> str:
    late = row == rows - 1
    if kind == "whole" or (kind.startswith("late") and not late):
        return str(draw.randrange(-1000, 1000))
    if kind == "large":
        return str(draw.choice((1 << 62, 1 << 53, (1 << 53) + 1, 1 << 63)) + draw.randrange(9))
    if kind in ("decimal", "late decimal"):
        return draw.choice((repr(draw.gauss(0, 1)), f"{draw.gauss(0, 100):.2f}", "1e-5", "-.5", "2."))
    if kind == "zeros":
        return f"{draw.randrange(100):03d}"
    if kind == "empty":
        return ""
    return "".join(draw.choice(WORDS) for _ in range(draw.randrange(6)))


def generated(draw: random.Random) -> tuple[bytes, list[list[str]], list[str]]:
    """A file, its rows, and its columns' names."""
    kinds = [draw.choice(KINDS) for _ in range(draw.randrange(1, 5))]
    rows = draw.choice((1, 2, 30, 300))
    names = [*(f"c{n}" for n in range(len(kinds))), "row"]
    cells = [[*(cell(kind, row, rows, draw) for kind in kinds), str(row)] for row in range(rows)]
    stream = io.StringIO()
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    end = draw.choice(("\n", "\r\n", "\r"))
    csv.writer(stream, lineterminator=end, quoting=quoting).writerows([names, *cells])
    text = stream.getvalue()
    if draw.random() < 0.3:
        text = text[: -len(end)]  # no line break at the end
    if draw.random() < 0.2:
        text = text.replace(end, end * 2, 1)  # an empty line
    bom = b"\xef\xbb\xbf" if draw.random() < 0.3 else b""
    if draw.random() < 0.1:
        text += '"unclosed,1' if draw.random() < 0.5 else f"1,2,3,4,5,6{end}"
    return bom + text.encode(), cells, names


def come_back(folder: Path) -> dict[str, list[Any]]:
    """The columns' values in the rows' order, by their name."""
    manifest, data = read_manifest(folder), st.open(folder)
    found = data[0 : len(data)]
    columns: dict[str, Any] = {}
    for field in manifest.fields:
        if field.columns:
            columns |= {name: found[field.name][:, entry] for entry, name in enumerate(field.columns)}
        elif field.classes:
            columns[field.name] = np.array(field.classes, object)[found[field.name]]
        else:
            columns[field.name] = found[field.name]
    order = np.argsort(columns["row"])
    return {name: list(np.asarray(values)[order]) for name, values in columns.items()}


def same(got: Any, wanted: str) -> bool:
    if isinstance(got, str):
        return got == wanted
    return (
        int(got) == int(wanted) if got == int(got) and re.fullmatch(r"-?\d+", wanted) else float(got) == float(wanted)
    )


@pytest.mark.parametrize("block", [64, 4 << 20], ids=["many blocks", "one block"])
def test_promise_14_as_pythons_csv_or_refused_by_row(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_text, "BATCH_BYTES", block)
    refused = 0
    for seed in range(FILES // 2):
        draw = random.Random(f"{block} {seed}")
        content, cells, names = generated(draw)
        file = tmp_path / f"{seed}.csv"
        file.write_bytes(content)
        options = st.PackOptions(splits=(1.0, 0.0, 0.0), missing=draw.choice(("refuse", "nan")))
        try:
            st.pack(file, tmp_path / str(seed), options)
        except SourceError as error:
            assert re.search(r"\.csv, row \d+", str(error)), (seed, str(error))
            refused += 1
            continue
        got = come_back(tmp_path / str(seed))
        for number, name in enumerate(names):
            wanted = [row[number] for row in cells]
            if name not in got:
                assert not any(wanted), (seed, name, "left out, and it held something")
                continue
            for value, text in zip(got[name], wanted, strict=True):
                absent = not isinstance(value, str) and np.isnan(value) and text in csv_text.EMPTY
                assert absent or same(value, text), (seed, name, value, text)
    assert refused < FILES / 4


def test_a_file_larger_than_a_block_with_long_cells(tmp_path: Path) -> None:
    """Cells with line breaks, of half a block and of none, in a file of more than a block."""
    draw = random.Random(1)
    texts = [("".join(draw.choice(WORDS) for _ in range(60)) + "é\n" * 700_000 * (n % 100 == 7)) for n in range(300)]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "row"), *((text, n) for n, text in enumerate(texts))])
    assert (tmp_path / "t.csv").stat().st_size > source.BATCH_BYTES
    st.pack(tmp_path / "t.csv", tmp_path / "packed", ALL_TRAIN)
    assert come_back(tmp_path / "packed")["text"] == texts
