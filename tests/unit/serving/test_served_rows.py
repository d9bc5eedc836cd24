"""The program of a model whose examples share rows: what evaluation gives, for any number of rows and of examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.model.gradient import Gradient
from streamtrain.prepare.plan import reader_of
from streamtrain.serving import export
from streamtrain.stream.opening import open_dataset
from streamtrain.values import Arrays
from tests.support.tokens import IN_ROWS, Language, Leaning, entry_loss, language_job, pack_ragged

ROWS = IN_ROWS["inputs"]


class Pooled(Language):
    """One number of each example, beside what its tokens give."""

    def forward(self, *given: torch.Tensor) -> Any:  # type: ignore[override]
        tokens, example, position, lengths = given
        found = super().forward(tokens, example, position)
        of = torch.where(example >= 0, example, len(lengths)).flatten()
        sums = found.new_zeros(len(lengths) + 1).index_add(0, of, found.sum(2).flatten())
        return {"scores": found, "sum": sums[:-1]}


def pooled_loss(output: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return entry_loss(output["scores"], target)


def marked(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Looks at a field of rows and at one of examples that only the loss needs."""
    known = (batch["label"] >= 0)[batch["tokens_example"].clamp(min=0)]
    return {**batch, "next": torch.where(known, batch["next"], batch["next"] + 1)}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(pack_ragged(tmp_path_factory.mktemp("ragged") / "d", 120, shortest=1))


@pytest.mark.parametrize("length", [20, 10])  # of 10 some hold one example: then there are as many rows as examples
@pytest.mark.parametrize(
    ("model", "inputs", "data", "settings", "fields"),
    [
        (Language, ROWS, {}, {}, ROWS),
        (Leaning, (*ROWS, "label", "tokens_length"), {}, {}, (*ROWS, "label", "tokens_length")),
        (Leaning, (*ROWS, "label", "tokens_length"), {"transform": marked}, {}, (*ROWS, "label", "tokens_length")),
        (Pooled, (*ROWS, "tokens_length"), {}, {"loss": pooled_loss}, (*ROWS, "tokens_length")),
        (
            Language,
            ROWS,
            {"transform": marked, "extra": ("label",)},
            {},
            (*ROWS, "label", "tokens_length", "tokens_row"),
        ),
    ],
)
def test_it_computes_as_in_evaluation_for_any_rows(
    url: str,
    model: Callable[[], torch.nn.Module],
    inputs: tuple[str, ...],
    data: dict[str, Any],
    settings: dict[str, Any],
    fields: tuple[str, ...],
    length: int,
) -> None:
    given = {"inputs": inputs, "collate": st.Pack(("tokens", "next"), length), **data}
    job = language_job(url, given, model=model, error=None, **{"loss": entry_loss, **settings})
    reader = reader_of(job, open_dataset(url), "train")
    gradient = Gradient(job)
    program = export(job, gradient, reader.read(0, 4))
    assert sorted(program.fields) == sorted(fields) and program.difference < 1e-12
    shapes = set()
    for start, stop in ((0, 1), (5, 7), (3, 12), (0, 60)):
        arrays: Arrays = reader.read(start, stop)
        shapes.add((len(arrays["tokens"]), len(arrays["tokens_length"])))
        with torch.no_grad():
            expected = gradient.output(gradient.batch(dict(arrays)))
        found = program({name: arrays[name] for name in program.fields})
        for name, output in (expected if isinstance(expected, dict) else {"": expected}).items():
            np.testing.assert_allclose(found[name], output.numpy(), rtol=1e-12, atol=1e-12)
    assert len(shapes) == 4, shapes
