"""A run on shards in an unknown order: its standard errors come from slices, and its table, summary and tags say so."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.measure.risk import pooled
from streamtrain.prepare.description import card_of
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.datasets import digits, pack_digits
from tests.support.fleet import run
from tests.support.foreign import write_digits


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: each.float().flatten(1) / 16 if each.ndim > 1 else each for name, each in batch.items()}


def test_sorted_shards_of_others_have_wider_errors_and_say_so(tmp_path: Path) -> None:
    by_class = np.argsort(digits()[1], kind="stable").tolist()
    write_digits(tmp_path / "d", by_class[::2])
    write_digits(tmp_path / "d", by_class[1::2], split="validation")
    data = st.Data(str(tmp_path / "d"), inputs=("npy",), target="cls", transform=scaled)
    job = st.Job(data, lambda: torch.nn.Linear(64, 10), mode=st.Epochs(max_passes=1), batch_size=32, lanes=2)
    result, fleet = run(job, tmp_path)
    held_out = result.chosen.generalization.loss
    alone = pooled(fleet.evaluate("validation", [(0, held_out.count)])).loss
    assert held_out.mean == pytest.approx(alone.mean) and held_out.standard_error > 2 * alone.standard_error
    assert result.chosen.gap_of_loss.standard_error >= held_out.standard_error
    assert "from the spread between slices" in st.table({"d": result})
    assert "(order unknown: no ±) in pass 1" in st.table({"d": result})
    assert "spread between slices" in result.summary()["standard_errors"]
    assert "spread between slices" in card_of(plan(job), "d").tags["standard_errors"]


def test_what_pack_shuffled_takes_examples_for_independent(tmp_path: Path) -> None:
    pack_digits(tmp_path / "d")
    job = st.Job(st.Data(str(tmp_path / "d"), transform=scaled), lambda: torch.nn.Linear(64, 10), mode=st.Online())
    result, _ = run(job, tmp_path)
    assert result.chosen.generalization.loss.design_effect is None and "spread" not in st.table({"d": result})
    assert result.summary()["standard_errors"] == "of independent examples"
    assert card_of(plan(job), "d").tags["standard_errors"] == "of independent examples"


@pytest.mark.parametrize(
    ("parts", "average", "otherwise"),
    [
        ((), st.Average(), ""),
        ((torch.nn.Dropout(0.0), torch.nn.LayerNorm(64)), st.Average(), ""),
        ((torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(64)), st.Average(), "BatchNorm1d, Dropout"),
        ((torch.nn.BatchNorm1d(64).eval(),), st.Average(), ""),
        ((), st.Average(decay=0.9), "averaged parameters"),
    ],
)
def test_a_tag_says_what_the_progressive_risk_estimates(
    parts: tuple[torch.nn.Module, ...], average: st.Average, otherwise: str, tmp_path: Path
) -> None:
    pack_digits(tmp_path / "d")

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(*parts, torch.nn.Linear(64, 10))

    job = st.Job(st.Data(str(tmp_path / "d"), transform=scaled), model, mode=st.Online(), batch_size=50)
    job = dataclasses.replace(job, average=average)
    plans = plan(job)
    tags = card_of(plans, "d", preflight(plans).trains_otherwise).tags
    of = (
        f"the risk on the way as the model trains, not as it is evaluated: {otherwise}" if otherwise else "the held-out"
    )
    assert tags["progressive.estimates"].startswith(of)
