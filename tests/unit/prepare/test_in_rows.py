"""The trial of `st.Pack`: what the model mixes within a row, and what is left out on the way, is refused in a line."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import SIZED_EXAMPLES, Trial, preflight
from tests.support.tokens import IN_ROWS, Hits, Language, entry_loss, language_job, pack_ragged

ROWS = IN_ROWS["collate"]
assert isinstance(ROWS, st.Pack)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("data") / "r", 100))


def tried(url: str, data: dict[str, Any] | None = None, **job: Any) -> Trial:
    given = {"loss": entry_loss, "error": "zero_one", **job}
    return preflight(plan(language_job(url, data={**IN_ROWS, **(data or {})}, **given)))


class PadsOnly(nn.Module):
    """Sees all that is before it in the row, of whichever example."""

    def __init__(self) -> None:
        super().__init__()
        self.language = Language()

    def forward(self, tokens: torch.Tensor, example: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.language(tokens)
        return output


class Placed(PadsOnly):
    """Counts places from the row's beginning on."""

    def forward(self, tokens: torch.Tensor, example: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1]).cos()[:, None]
        output: torch.Tensor = self.language(tokens, example, position) * places
        return output


def left_out(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "tokens_row"}


def left_out_in_training(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    return left_out(batch)


def one_row(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {**batch, "next": torch.cat([batch["next"]] * 9)}


def double(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 2 * entry_loss(output, target)


def test_what_can_be_laid_into_rows_is_tried(url: str) -> None:
    metrics = {"hits": Hits(), "double": double, "perplexity": st.OfMeans(math.exp, "loss")}
    metrics["ratio"] = st.OfMeans(lambda one, two: two / one, "loss", double)
    for job in ({}, {"micro_batch": 2}, {"metrics": metrics}, {"loss": "cross_entropy"}):
        trial = tried(url, **job)
        assert trial.output is not None and trial.output.shape[:2] == trial.inputs[0].shape
        assert trial.inputs[0].shape[1] == ROWS.length


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a model that mixes a row's examples": (
        {},
        {"model": PadsOnly},
        "loss, sums: expected the same of an example wherever in a row it lies, found another beside others; let the "
        "model tell by 'tokens_example' and 'tokens_position', which st.Pack adds",
    ),
    "a model that counts places from the row's beginning": (
        {},
        {"model": Placed},
        "loss, sums: expected the same of an example wherever in a row it lies, found another beside others",
    ),
    "a loss of rows' means": (
        {},
        {"loss": lambda output, target: entry_loss(output, target).mean()[None], "error": None},
        r"loss: expected one value an entry, shape \(\d+,\), found shape \(1,\); average over nothing",
    ),
    "a transform that leaves a field out": (
        {"transform": left_out},
        {},
        "data.transform: expected a field 'tokens_row', found .*; return it too",
    ),
    "an augment_batch that leaves a field out": (
        {"augment_batch": left_out_in_training},
        {},
        "data.augment_batch: expected a field 'tokens_row', found .*; return it too",
    ),
    "an augment_batch that changes the number of rows": (
        {"augment_batch": one_row},
        {},
        r"data.augment_batch, field 'next': expected \d examples, as it was given, found shape \(\d+, 20\)",
    ),
    "a sequence longer than a row": (
        {"collate": st.Pack(("tokens", "next"), 2)},
        {},
        "field 'tokens': expected at most 2 entries, found ",
    ),
    "a field of one number": (
        {"collate": st.Pack(("label",), 20), "inputs": ("label", "label_example", "label_position")},
        {},
        "field 'next': expected arrays of one shape|expected an array of numbers, found a single number",
    ),
    "no such field": ({"collate": st.Pack(("tokens", "next", "no"), 20)}, {}, "expected a field 'no', found"),
    "a name that it does not make": ({"target": "next_row"}, {}, "expected a field 'next_row', found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_anything_starts(name: str, url: str) -> None:
    data, job, said = REFUSED[name]
    made = language_job(url, data={**IN_ROWS, **data}, loss=entry_loss, error="zero_one")
    with pytest.raises(st.StreamtrainError, match=said) as found:
        preflight(plan(dataclasses.replace(made, **job)))
    assert "\n" not in str(found.value)


def test_the_runs_page_shows_how_examples_are_laid(url: str) -> None:
    shown = card_of(plan(language_job(url, IN_ROWS, loss=entry_loss)), "a").params
    assert shown["data.collate"].startswith("Pack(fields=('tokens', 'next'), length=20, value=0")


def test_where_the_first_examples_are_all_bad_none_is_held_against_others(url: str) -> None:
    few = first_words(url)

    def late(example: dict[str, Any]) -> dict[str, Any]:
        if example["word"] in few:
            raise ValueError("bad")
        return {name: example[name] for name in ("tokens", "next")}

    given = {"map": late, "on_bad_example": "skip", "extra": ("word", "tokens", "next")}
    assert tried(url, given).output is not None


def first_words(url: str) -> set[str]:
    return {example["word"] for example, _ in zip(st.open(url), range(SIZED_EXAMPLES), strict=False)}
