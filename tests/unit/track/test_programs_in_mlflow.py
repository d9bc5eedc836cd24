"""What a run logs as its model can be used: by `mlflow.pyfunc`, by a table, by a server; in evaluation's numbers."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

import streamtrain as st
from streamtrain.model.gradient import Gradient
from streamtrain.serving import Examples, prospect, serve
from streamtrain.track.mlflow.model import save_model
from streamtrain.track.tracker import ModelCard, ProgramCard
from streamtrain.values import Arrays
from tests.support.servers import free_port
from tests.unit.serving.test_program import IMAGES, Means, Mixed, Words, evaluated, first, job_of, scaled, token_loss

JOB = """
import numpy as np
import torch

import streamtrain as st

SCALE = 3


def read(example):
    import json

    numbers = json.loads(example["text"].decode())
    return {"x": np.array(numbers, np.float32) * SCALE, "label": example["label"]}


job = st.Job(st.Data("nowhere", inputs=("x",), map=read), lambda: torch.nn.Linear(2, 3))
"""

CROPPING = """
import numpy as np
import torch

import streamtrain as st


def cropped(example):
    return {"image": example["image"][:4, :4].astype(np.float32), "label": example["label"]}


def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))


job = st.Job(st.Data("nowhere", map=cropped), model)
"""


def logged(job: st.Job, examples: Examples, folder: Path) -> tuple[Any, Gradient]:
    """The model that MLflow gives back, and the one that it is to be."""
    gradient = Gradient(job)
    found = prospect(job, gradient, examples)
    assert found.not_exported is None, found.not_exported
    served = serve(job, gradient, examples, found)
    program = ProgramCard(served.inputs, served.outputs, served.save, served.any_size, served.notes)
    save_model(ModelCard(gradient.model, (), None, program=program, needs=served.needs), folder)
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".pth")]
    return mlflow.pyfunc.load_model(str(folder)), gradient


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Gradient]:
    """A classifier with two inputs, dropout and BatchNorm."""
    folder = tmp_path_factory.mktemp("images") / "model"
    job = job_of(Mixed, "image", "mask", transform=scaled)
    return folder, *logged(job, Examples(IMAGES, {}), folder)


@pytest.mark.parametrize("examples", [1, 2, 6])
def test_a_classifier_predicts_as_in_evaluation(images: tuple[Path, Any, Gradient], examples: int) -> None:
    _, model, gradient = images
    given = first({name: IMAGES[name] for name in ("image", "mask")}, examples)
    expected = evaluated(gradient, first(IMAGES, examples)).numpy()
    assert np.array_equal(model.predict(given), expected)


def test_it_says_its_form_and_shows_an_example(images: tuple[Path, Any, Gradient]) -> None:
    folder, model, _ = images
    signature = model.metadata.signature
    assert [(spec.name, str(spec.type), spec.shape) for spec in signature.inputs] == [
        ("image", "uint8", (-1, 8, 8, 3)),
        ("mask", "float32", (-1, 5)),
    ]
    assert [(spec.name, spec.shape) for spec in signature.outputs] == [(None, (-1, 3))]
    example = model.input_example
    assert np.array_equal(example["image"], IMAGES["image"][:1]) and model.predict(example).shape == (1, 3)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "MLmodel")
    assert 0 < model.metadata.model_size_bytes - size < 10_000, "the program counts"
    needs = (folder / "requirements.txt").read_text().split()
    assert [need.partition("==")[0] for need in needs] == ["mlflow", "numpy", "torch"]
    assert model.metadata.metadata["inputs"] == ["image: uint8 (8, 8, 3)", "mask: float32 (5,)"]


def test_a_table_with_a_column_a_field_does_for_a_regression(tmp_path: Path) -> None:
    arrays: Arrays = {"a": np.arange(4.0), "b": np.arange(4) * 0.5, "y": np.ones(4)}
    job = job_of(Means, "a", "b", target="y", loss="mse")
    model, gradient = logged(job, Examples(arrays, {}), tmp_path / "model")
    expected = evaluated(gradient, dict(arrays)).numpy()
    table = pd.DataFrame({"b": arrays["b"], "a": arrays["a"]})
    assert np.array_equal(model.predict(table), expected) and np.array_equal(model.predict(table[:1]), expected[:1])
    assert np.array_equal(model.predict({"a": arrays["a"], "b": arrays["b"]}), expected)


def test_a_language_model_takes_rows_of_any_length(tmp_path: Path) -> None:
    rows: Arrays = {"tokens": np.arange(45).reshape(5, 9) % 11}
    job = job_of(Words, "tokens", target="tokens", loss=token_loss, collate=st.Pad("tokens", 0))
    model, gradient = logged(job, Examples(rows, {}), tmp_path / "model")
    for shape in ((1, 4), (3, 12)):
        other: Arrays = {"tokens": np.arange(shape[0] * shape[1]).reshape(shape) % 11}
        expected = evaluated(gradient, dict(other)).numpy()
        np.testing.assert_allclose(model.predict(other), expected, rtol=0, atol=1e-5)
    assert model.metadata.metadata["notes"][0] == "data.collate: batches are given to it as data.collate returns them"


def test_map_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "reading.py").write_text(JOB)
    job = st.load_job(tmp_path / "reading.py")
    assert job.data.map is not None
    raw: Arrays = {"text": np.array([b"[1, 2]", b"[3, 4.5]"], object), "label": np.array([0, 1])}
    rows = [dict(job.data.map({"text": text, "label": 0})) for text in raw["text"]]
    read: Arrays = {"x": np.stack([row["x"] for row in rows]), "label": raw["label"]}
    model, gradient = logged(job, Examples(read, raw), tmp_path / "model")
    (tmp_path / "reading.py").unlink()
    expected = evaluated(gradient, dict(read)).numpy()
    assert np.array_equal(model.predict(pd.DataFrame({"text": list(raw["text"])})), expected)
    with server(tmp_path / "model") as address:
        texts = ["WzEsIDJd", "WzMsIDQuNV0="]  # in base64, as JSON has bytes
        answer = ask(address, {"dataframe_split": {"columns": ["text"], "data": [[text] for text in texts]}})
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)


def test_pictures_may_have_other_sizes_than_the_first(tmp_path: Path) -> None:
    (tmp_path / "cropping.py").write_text(CROPPING)
    job = st.load_job(tmp_path / "cropping.py")
    assert job.data.map is not None
    raw: Arrays = {"image": IMAGES["image"], "label": IMAGES["label"]}  # of one size, as it happens
    rows = [job.data.map({"image": image, "label": 0}) for image in raw["image"]]
    read: Arrays = {"image": np.stack([row["image"] for row in rows]), "label": raw["label"]}
    model, gradient = logged(job, Examples(read, raw, frozenset({"image"})), tmp_path / "model")
    assert [spec.shape for spec in model.metadata.signature.inputs] == [(-1, -1, -1, -1)]
    assert [spec.shape for spec in model.metadata.signature.outputs] == [(-1, 2)]
    wider = np.concatenate([raw["image"], raw["image"]], 2)
    for images in (raw["image"], wider, wider[:1]):
        expected = evaluated(gradient, first(read, len(images))).numpy()
        np.testing.assert_allclose(model.predict({"image": images}), expected, rtol=1e-6)


def test_mlflow_s_server_answers_for_one_and_many(images: tuple[Path, Any, Gradient]) -> None:
    folder, _, gradient = images
    with server(folder) as address:
        for examples in (1, 5):
            given = {name: first(IMAGES, examples)[name].tolist() for name in ("image", "mask")}
            answer = ask(address, {"inputs": given})
            expected = evaluated(gradient, first(IMAGES, examples)).numpy()
            np.testing.assert_allclose(np.array(answer["predictions"], np.float32), expected, rtol=1e-6)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """`mlflow models serve`, until the block ends."""
    port = free_port()
    words = ["models", "serve", "-m", str(folder), "-p", str(port), "--env-manager", "local", "-w", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Uvicorn running on" in line:
                break
        else:
            raise AssertionError("".join(seen))
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.communicate()


def ask(address: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
