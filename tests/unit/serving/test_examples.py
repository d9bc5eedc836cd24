"""A few examples, as the reader gives them and as `map` gets them, row by row the same ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import streamtrain as st
from streamtrain.errors import ShardError
from streamtrain.model.gradient import Gradient
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import examples_of
from streamtrain.serving import prospect, serve
from streamtrain.serving.examples import MOST


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "d.npz", x=np.arange(60.0), label=np.arange(60) % 3)
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(0.5, 0.5, 0.0), seed=1))
    return str(folder / "d")


def odd_only(example: dict[str, Any]) -> dict[str, Any]:
    if example["x"] % 2 == 0:
        raise ValueError("even")
    return {"x": np.float32([example["x"] * 10]), "label": example["label"]}


def refused(example: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("none is good")


def model() -> Any:
    import torch

    return torch.nn.Linear(1, 3)


def job_of(url: str, **data: Any) -> st.Job:
    return st.Job(st.Data(url, inputs=("x",), **data), model, tracking=st.Tracking(enabled=False))


def test_bad_ones_are_in_neither(url: str) -> None:
    found = examples_of(plan(job_of(url, map=odd_only, on_bad_example="skip")))
    assert len(found.read["x"]) == len(found.raw["x"]) == MOST
    assert np.array_equal(found.read["x"][:, 0], found.raw["x"] * 10) and (found.raw["x"] % 2 == 1).all()


def test_without_a_map_there_is_one_form_of_them(url: str) -> None:
    found = examples_of(plan(job_of(url)))
    assert found.raw == {} and len(found.read["x"]) == MOST


def test_where_none_is_good_the_data_set_is_named(url: str) -> None:
    plans = plan(job_of(url, map=refused, on_bad_example="skip"))
    with pytest.raises(ShardError, match=r"d: expected a readable example, found 30 bad ones"):
        examples_of(plans)


def cropped(example: dict[str, Any]) -> dict[str, Any]:
    return {"image": example["image"][:4, :4].astype(np.float32), "label": example["label"]}


def flat() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))


@pytest.mark.parametrize("alike", [False, True])
def test_pictures_of_several_sizes_that_map_brings_to_one(tmp_path: Path, alike: bool) -> None:
    """`map` is part of the model, for any size, also where the first ones happen to have the same."""
    for number in range(40):
        folder = tmp_path / "raw" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        form = (9, 7, 3) if alike and number else (4 + number, 50 - number, 3)
        levels = np.random.default_rng(number).integers(0, 256, form, np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    st.pack(str(tmp_path / "raw"), tmp_path / "d", st.PackOptions(splits=(0.5, 0.5, 0.0), seed=1))
    data = st.Data(str(tmp_path / "d"), map=cropped)
    job = st.Job(data, flat, tracking=st.Tracking(enabled=False))
    found = examples_of(plan(job))
    assert found.read["image"].shape == (MOST, 4, 4, 3) and len(found.raw["image"]) == MOST
    for raw, read in zip(found.raw["image"], found.read["image"], strict=True):
        assert np.array_equal(raw[:4, :4], read)
    assert (found.raw["image"].dtype == object) is not alike and "image" in found.loose
    gradient = Gradient(job)
    served = serve(job, gradient, found, prospect(job, gradient, found))
    assert served.notes == () and served.any_size == {"image"}
    assert served.inputs["image"].dtype == np.uint8 and served.inputs["image"].ndim == 4
