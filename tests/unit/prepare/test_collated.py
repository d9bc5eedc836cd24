"""The trial of `data.collate`: it takes the very calls of training, and refuses in one line what cannot be collated."""

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import Trial, preflight
from tests.support.tokens import NO_TOKEN, PADS, Language, language_job, pack_ragged

LOCK = threading.Lock()
OWN = np.random.default_rng()
Example = dict[str, Any]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("data") / "r", 100))


def tried(url: str, **data: Any) -> Trial:
    return preflight(plan(language_job(url, data={"collate": PADS, **data})))


def shortened(example: Example, rng: np.random.Generator) -> Example:
    length = rng.integers(0, 1 + len(example["tokens"]))
    return {name: value[:length] for name, value in example.items()}


def by_hand(examples: list[Example]) -> dict[str, Any]:
    width = max(1, *(len(example["tokens"]) for example in examples))
    padded = {name: np.full((len(examples), width), NO_TOKEN) for name in ("tokens", "next")}
    for name, array in padded.items():
        for row, example in zip(array, examples, strict=True):
            row[: len(example[name])] = example[name]
    return {"tokens": np.maximum(padded["tokens"], 0), "next": padded["next"]}


def told(example: Example) -> Example:
    """Tokens out of a text."""
    letters = np.frombuffer((example["word"] * 2).encode(), np.uint8).astype(np.int64) % 11
    return {"tokens": letters[:-1], "next": letters[1:]}


TAKEN: dict[str, dict[str, Any]] = {
    "pads": {},
    "an augmentation that changes the length": {"augment": shortened},
    "a function": {"collate": by_hand},
    "what a map makes": {"map": told, "extra": ("word",)},
    "a bound": {"collate": tuple(st.Pad(pad.field, pad.value, longest=9, cut=True) for pad in PADS)},
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_collated_is_tried(name: str, url: str) -> None:
    trial = tried(url, **TAKEN[name])
    assert trial.output is not None and trial.inputs[0].shape == trial.output.shape[:2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no collate": (
        {"collate": None},
        "field 'tokens': expected arrays of one shape, found arrays whose shape varies; set data.map, "
        r"data.collate=st.Pad\('tokens'\), pack them in one shape",
    ),
    "a field without a pad": (
        {"collate": PADS[0]},
        r"field 'next': expected arrays of one shape, .*data.collate=st.Pad\('next'\)",
    ),
    "an augmentation without a collate": (
        {
            "collate": None,
            "map": lambda example: {n: np.zeros(9, int) for n in ("tokens", "next")},
            "augment": shortened,
        },
        r"field 'tokens': expected shape \(\d,\) as in .*; return one form from data.augment, or set data.collate",
    ),
    "an augmentation that changes the type": (
        {"augment": lambda example, _: {**example, "tokens": example["tokens"] / 1.0}},
        "data.augment, field 'tokens': expected int64 with 1 axes, as it was given, found float64 with 1 axes",
    ),
    "no such field": (
        {"collate": (*PADS, st.Pad("nothing"))},
        "expected a field 'nothing', found label, next, tokens",
    ),
    "lengths of a field that is not padded": ({"target": "label_length"}, "expected a field 'label_length', found"),
    "a function that draws": (
        {"collate": lambda examples: {**by_hand(examples), "x": OWN.random(len(examples))}},
        "data.collate: expected the same from the same examples each time, found another 'x' in a second try",
    ),
    "a function that leaves the target out": (
        {"collate": lambda examples: {"tokens": by_hand(examples)["tokens"]}},
        "data.collate: expected a field 'next', found tokens; return it too",
    ),
    "a function with another first axis": (
        {"collate": lambda examples: {name: each[:1] for name, each in by_hand(examples).items()}},
        r"and 3 more: data.collate, field 'tokens': expected 4 along the first axis, .*found shape \(1, ",
    ),
    "a function that no worker can be given": (
        {"collate": lambda examples: LOCK.locked() or by_hand(examples)},
        "data.collate: expected a function that can be sent to workers",
    ),
    "too long": (
        {"collate": tuple(st.Pad(pad.field, pad.value, longest=1) for pad in PADS)},
        "at most 1 entries, found",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_starts(name: str, url: str) -> None:
    data, said = REFUSED[name]
    with pytest.raises(st.StreamtrainError, match=said) as found:
        tried(url, **data)
    assert "\n" not in str(found.value)


class Unmasked(nn.Module):
    """Knows the mean of all its tokens, padding too."""

    def __init__(self) -> None:
        super().__init__()
        self.language = Language()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.language(tokens) + tokens.to(torch.float64).mean(1)[:, None, None] * torch.arange(
            11
        )
        return output


def test_a_loss_that_depends_on_the_padding_is_refused(url: str) -> None:
    """It would depend on the lanes, and on how an evaluation is cut."""

    def mean(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output.transpose(1, 2), target.relu(), reduction="none").mean(1)

    said = "expected the same of an example whatever it is padded to, found another beside a longer one; leave the"
    for change in ({"loss": mean, "error": None}, {"model": Unmasked}):
        job = dataclasses.replace(language_job(url, data={"collate": PADS}), **change)
        with pytest.raises(st.JobError, match=f"^(loss|loss, sums): {said}"):
            preflight(plan(job))


def test_the_runs_page_shows_how_examples_are_collated(url: str) -> None:
    shown = card_of(plan(language_job(url, data={"collate": PADS[0]})), "a").params
    assert shown["data.collate"].startswith("Pad(field='tokens', value=0, multiple_of=4")
    assert card_of(plan(language_job(url, data={"collate": by_hand})), "a").params["data.collate"] == "by_hand"


def test_the_lengths_are_fields_as_others(url: str) -> None:
    """To a loss and to an objective."""

    def mean(output: torch.Tensor, target: dict[str, torch.Tensor]) -> st.Weighted:
        there = torch.arange(output.shape[1]) < target["tokens_length"][:, None]
        losses = nn.functional.cross_entropy(output.transpose(1, 2), target["next"].relu(), reduction="none")
        return st.Weighted((losses * there).sum(1), target["tokens_length"])

    def objective(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, st.Weighted]:
        return {"loss": mean(model(batch["tokens"]), batch)}

    data = {"collate": PADS, "target": ("next", "tokens_length")}
    preflight(plan(language_job(url, data=data, loss=mean, error=None)))
    off = st.Tracking(enabled=False)
    preflight(plan(st.Job(st.Data(url, collate=PADS), Language, objective=objective, tracking=off)))
