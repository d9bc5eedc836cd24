"""A job's `map`, cut out of its file: what it needs, nothing else, and the same bits."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamtrain as st
from streamtrain.serving.map_source import MapSource, NotShipped, check, cut_out, imported, map_source
from streamtrain.values import Arrays

FILE = '''"""A job."""
from __future__ import annotations

import functools
import math as m
import os
from typing import Any

import numpy as np
import torch

import streamtrain as st

A, B = 2, 3
UNUSED = os.getcwd()
if B > 2:
    SCALE = 10
else:
    SCALE = 1


@functools.cache
def table() -> np.ndarray:
    """Counts."""
    return np.arange(A)


class Adder:
    amount = B

    def add(self, x):
        return x + self.amount * SCALE


def made(example: dict[str, Any]) -> dict[str, Any]:
    torch = 3  # its own
    x = Adder().add(example["x"]) + table().sum() + m.floor(2.5) + 0 * torch
    return {"x": np.float32(x), "label": example["label"]}


BOUND = lambda example: {**example, "x": example["x"] * 2}


def model():
    return torch.nn.Linear(1, 1)


job = st.Job(st.Data("nowhere", inputs=("x",), map=made), model)
'''
RAW: Arrays = {"x": np.array([1, 2, 5]), "label": np.array([0, 1, 0]), "more": np.array([7, 8, 9])}


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    (tmp_path / "a_job.py").write_text(FILE)
    return st.load_job(tmp_path / "a_job.py")


def with_map(job: st.Job, function: Callable[[dict[str, Any]], Any]) -> st.Job:
    return dataclasses.replace(job, data=dataclasses.replace(job.data, map=function))


def shipped(job: st.Job, raw: Arrays = RAW) -> MapSource:
    assert job.data.map is not None
    rows = [{name: column[i] for name, column in raw.items()} for i in range(3)]
    made = {name: np.array([job.data.map(row)[name] for row in rows]) for name in ("x",)}
    return map_source(job, raw, made, ["x"])


def test_what_it_needs_is_cut_out_and_nothing_else(job: st.Job) -> None:
    found = shipped(job)
    assert found.function == "made" and found.packages == ("numpy",)
    starts = [line for line in found.source.splitlines() if line and not line.startswith((" ", "@", "else"))]
    assert starts == [
        "from __future__ import annotations",
        *("import functools", "import math as m", "from typing import Any", "import numpy as np"),
        *("A, B = 2, 3", "if B > 2:", "def table() -> np.ndarray:", "class Adder:"),
        "def made(example: dict[str, Any]) -> dict[str, Any]:",
    ]
    assert "@functools.cache\n" in found.source


def test_it_asks_for_the_fields_that_it_needs(job: st.Job) -> None:
    found = shipped(job)
    assert found.fields == {"x": "int64"} and found.zeros == {"label": ("int64", ())}


OPTIONAL = """


def made(example):
    found = {"x": np.float32(example["x"])}
    BODY
    return found


job"""


@pytest.mark.parametrize(
    "body",
    [
        'found["x"] += example.get("more", 0) * (example["x"] > 5)',
        'found["x"] += example["more"] if "more" in example and example["x"] > 5 else 0',
        'found["x"] += example["more"] if example["x"] > 5 else 0',
        'found["x"] += example.get("mo" + "re", 0) * (example["x"] > 5)',
        'found["x"] += example.pop("more", 0) * (example["x"] > 5)',
    ],
)
def test_a_field_that_makes_no_difference_to_the_first_examples_is_asked_for(tmp_path: Path, body: str) -> None:
    before, _, after = FILE.partition("def made(")
    changed = before + OPTIONAL.replace("BODY", body).strip() + after[after.index("job = ") + 3 :]
    (tmp_path / "a_job.py").write_text(
        changed.replace("\njob = ", "\ndef model():\n    return torch.nn.Linear(1, 1)\n\n\njob = ")
    )
    found = shipped(st.load_job(tmp_path / "a_job.py"))
    assert found.fields == {"x": "int64", "more": "int64"} and not found.zeros


def test_a_target_that_matters_is_asked_for(job: st.Job) -> None:
    found = shipped(with_map(job, _module(job).BOUND))  # which also looks at no field but x
    assert found.fields == {"x": "int64"} and not found.zeros and found.function == "BOUND"


def test_other_numbers_are_noticed(job: st.Job) -> None:
    found = shipped(job)
    with pytest.raises(NotShipped, match="it gives something else"):
        check(found, RAW, {"x": np.array([1, 2, 3], np.float32)}, ["x"])
    with pytest.raises(NotShipped, match="it fails: NameError: name 'A' is not defined"):
        check(dataclasses.replace(found, source=found.source.replace("A, B = 2, 3", "B = 3")), RAW, RAW, ["x"])


def local() -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda example: example


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("import os", "import os\nfrom math import *", r"imports \*"),
        ("m.floor(2.5)", "beside.half(2)", "it needs beside, a file beside the job's"),
        ("m.floor(2.5)", "st.Clip(norm=1.0).norm", "it needs streamtrain itself"),
    ],
)
def test_what_cannot_be_cut_out_is_said(tmp_path: Path, before: str, after: str, said: str) -> None:
    (tmp_path / "beside.py").write_text("def half(x):\n    return x\n")
    changed = FILE.replace("import os\n", "import os\n\nimport beside\n").replace(before, after)
    (tmp_path / "other.py").write_text(changed)
    with pytest.raises(NotShipped, match=said):
        shipped(st.load_job(tmp_path / "other.py"))


def test_a_function_without_a_name_cannot_be_cut_out(job: st.Job) -> None:
    with pytest.raises(NotShipped, match="no name of its own in the job's file"):
        shipped(with_map(job, local()))


@pytest.mark.parametrize(
    ("values", "kind"), [([b"1", b"22", b"5"], "bytes"), (["1", "22", "5"], "text"), ([{1: 2}, {}, {}], None)]
)
def test_fields_of_other_kinds(job: st.Job, tmp_path: Path, values: list[Any], kind: str | None) -> None:
    changed = FILE.replace('example["x"] * 2', 'len(example["x"])')
    (tmp_path / "lengths.py").write_text(changed)
    job = st.load_job(tmp_path / "lengths.py")
    job = with_map(job, _module(job).BOUND)
    raw: Arrays = {**RAW, "x": np.array([*values, None], object)[:3]}
    if kind is None:
        with pytest.raises(NotShipped, match="it needs fields that are dict"):
            shipped(job, raw)
    else:
        assert shipped(job, raw).fields == {"x": kind}


def _module(job: st.Job) -> Any:
    return sys.modules[str(job.model.__module__)]


def test_imports_anywhere_but_the_standard_library_s() -> None:
    source = "import os, numpy.linalg\ndef f():\n    from scipy.signal import x\n    import PIL\nfrom . import y\n"
    assert imported(source) == ("PIL", "numpy", "scipy")


def test_names_in_branches_and_loops_are_found() -> None:
    source = "try:\n    import fast as f\nexcept ImportError:\n    f = None\nfor i in range(3):\n    last = i\nx = 1\n"
    source += "def g():\n    return f, last\n"
    assert cut_out(source, "g") == source.replace("x = 1\n", "\n\n")


def test_what_fills_a_value_or_sets_its_attribute_is_kept() -> None:
    source = (
        "from PIL import Image, ImageFile\n\n\nImageFile.LOAD_TRUNCATED_IMAGES = True\nTABLE = {}\nTABLE['a'] = 1\n"
    )
    source += "TABLE.update(b=2)\nfor i in range(3):\n    TABLE[i] = i\ndef g(x):\n    return TABLE, Image.open(x)\n"
    others = "\n\nif __name__ == '__main__':\n    TABLE.clear()\nOTHER = []\nOTHER.append(1)\n"
    assert cut_out(source + others, "g") == source
