"""The trial of augmentations: they draw where they may, and keep an example's form; else one line, before Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.augmentations import augmented_job
from tests.support.datasets import pack_digits

OWN = np.random.default_rng()
Example = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=300)
    return folder


def image(change: Callable[[Any, np.random.Generator], Any]) -> Callable[[Example, np.random.Generator], Example]:
    return lambda example, rng: {**example, "image": change(example["image"], rng)}


def seldom_smaller(image: Any, rng: np.random.Generator) -> Any:
    return image[:7] if rng.random() < 0.3 else image


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a generator of its own": (
        {"augment": image(lambda i, _: np.roll(i, OWN.integers(1, 6)))},
        "data.augment: expected the same from the same examples each time, found another 'image' in a second try; "
        "draw from the generator that it is given",
    ),
    "another type": (
        {"augment": image(lambda i, _: i / 255)},
        r"data.augment, field 'image': expected uint8 of shape \(8, 8\), as it was given, found float64 of shape "
        r"\(8, 8\); bring examples to their form in data.map",
    ),
    "another shape": (
        {"augment": image(lambda i, _: i[1:])},
        r"data.augment, field 'image': expected uint8 of shape \(8, 8\), .* found uint8 of shape \(7, 8\)",
    ),
    "a shape now and then": ({"augment": image(seldom_smaller)}, r"shape .*\(7, 8\)"),
    "no target": (
        {"augment": lambda example, _: {"image": example["image"]}},
        "data.augment: expected a field 'label', found image; return it too",
    ),
    "an error": (
        {"augment": lambda example, _: example["images"]},
        r"example '.*': data.augment failed: KeyError: 'images'",
    ),
    "no function": ({"augment": 3}, "data.augment: expected a function, found 3"),
    "a batch's own generator": (
        {"augment_batch": lambda batch, _: {**batch, "image": batch["image"] * OWN.random()}},
        "data.augment_batch: expected the same .*, found another 'image' in a second try; draw from the generator",
    ),
    "fewer examples": (
        {"augment_batch": lambda batch, _: {name: tensor[1:] for name, tensor in batch.items()}},
        r"data.augment_batch, field '.*': expected 4 examples, as it was given, found shape \(3",
    ),
    "no label in a batch": (
        {"augment_batch": lambda batch, _: {"image": batch["image"]}},
        "data.augment_batch: expected a field 'label', found image; return it too",
    ),
    "no tensor": (
        {"augment_batch": lambda batch, _: {**batch, "image": 3}},
        "data.transform or data.augment_batch, field 'image': expected a tensor, found int",
    ),
    "a batch's error": ({"augment_batch": lambda batch, _: batch[3]}, "data.augment_batch failed: KeyError: 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_augmentation_may_not_do_is_refused(name: str, folder: Path) -> None:
    data, found = REFUSED[name]
    with pytest.raises(st.StreamtrainError, match=found):
        preflight(plan(augmented_job(folder, **{"augment": None, "augment_batch": None, **data})))


def test_promise_15_the_trial_takes_the_augmented_examples(folder: Path) -> None:
    """What only they make fail is found."""

    def negative(example: Example, rng: np.random.Generator) -> Example:
        return {**example, "label": example["label"] * 0 + 99}

    with pytest.raises(st.JobError, match="the loss failed: IndexError: Target 99 is out of bounds"):
        preflight(plan(augmented_job(folder, augment=negative)))


@pytest.mark.parametrize("name", ["augment", "augment_batch", ""])
def test_a_tag_says_that_the_progressive_risk_is_of_augmented_examples(name: str, folder: Path) -> None:
    none = {each: None for each in ("augment", "augment_batch") if each != name}
    plans = plan(augmented_job(folder, **none))
    tags = card_of(plans, "d", ("Dropout",)).tags
    expected = "augmentation, Dropout" if name else "Dropout"
    assert tags["progressive.estimates"].endswith(f"not as it is evaluated: {expected}")
    shown = card_of(plans, "d").params
    assert shown["data.augment"] == ("shifted" if name == "augment" else "None")


def test_an_augmentation_may_draw_from_everything_that_it_is_given(folder: Path) -> None:
    preflight(plan(augmented_job(folder)))
    generator = torch.Generator()

    def seeded(batch: dict[str, torch.Tensor], given: torch.Generator) -> dict[str, torch.Tensor]:
        generator.manual_seed(int(torch.randint(2**31, (), generator=given)))
        return {**batch, "image": batch["image"] + torch.rand((), generator=generator)}

    preflight(plan(augmented_job(folder, augment_batch=seeded)))
