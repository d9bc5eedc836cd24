"""Fields that `map` and `augment` make or rename are as good as stored ones; the trial finds out which there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet, run

Example = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=200)
    return folder


def halves(example: Example) -> Mapping[str, Any]:
    image = example["image"].astype(np.float32) / 255
    return {"left": image[:, :4], "right": image[:, 4:], "even": np.int64(example["label"] % 2 == 0)}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(torch.cat([left.flatten(1), right.flatten(1)], 1))
        return output


def job(folder: Path, **data: Any) -> st.Job:
    chosen = {"inputs": ("left", "right"), "target": "even", "map": halves, **data}
    off = st.Tracking(enabled=False)
    return st.Job(st.Data(str(folder), **chosen), Two, batch_size=20, mode=st.Epochs(2, patience=2), tracking=off)


def test_inputs_and_target_may_be_made_and_renamed(folder: Path, tmp_path: Path) -> None:
    preflight(plan(job(folder)))
    result, _ = run(job(folder), tmp_path)
    assert 0 < result.evaluations[-1].generalization.error.mean < 0.5


def test_what_augment_makes_beside_them_reaches_the_batch(folder: Path) -> None:
    """A field of its own, from where training alone takes it."""

    def swapped(example: Example, rng: np.random.Generator) -> Example:
        return {**example, "swap": np.float32(rng.random() < 0.5)}

    def swap(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        chosen = batch["swap"][:, None, None] > 0
        left, right = batch["left"], batch["right"]
        return {**batch, "left": torch.where(chosen, right, left), "right": torch.where(chosen, left, right)}

    both = job(folder, augment=swapped, augment_batch=swap)
    preflight(plan(both))
    with PlainFleet(plan(both)) as fleet, PlainFleet(plan(job(folder))) as without:
        fleet.advance(3)
        without.advance(3)
        assert fleet.updates != without.updates
        fleet.evaluate("validation", [(0, 10)])


def test_only_what_is_taken_is_read(folder: Path) -> None:
    assert plan(job(folder)).fields == ("image", "label")
    assert plan(job(folder, extra=("label",), map=lambda e: e)).fields == ("label",)
    image = lambda e: {**e, "even": np.int64(3)}  # noqa: E731
    assert plan(job(folder, inputs=("image",), extra=("image",), map=image)).fields == ("image",)
    assert plan(job(folder, inputs=("image",), target="label")).fields == ("image", "label")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"map": None}, "expected a field 'left', found image, label; set data.inputs, data.target and data.extra, or"),
        ({"inputs": ("middle",)}, "data.map: expected a field 'middle', found even, left, right; return it too"),
        ({"extra": ("imige",)}, "expected a field 'imige', found image, label; set data.inputs"),
        (
            {"inputs": ("view",), "augment": lambda e, _: {**e, "view": e["left"]}},
            "data.map: expected a field 'view', found even, left, right; make it there too: evaluation does not call",
        ),
    ],
)
def test_a_field_that_nothing_makes_is_refused(data: dict[str, Any], found: str, folder: Path) -> None:
    with pytest.raises(st.StreamtrainError, match=found):
        preflight(plan(job(folder, **data)))
