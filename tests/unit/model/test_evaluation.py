"""Slices of an evaluation: together, in pieces, one by one; always the same risks."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamtrain.aggregate.moments import WrongWeight
from streamtrain.job import Data, OfMeans, Weighted
from streamtrain.model.evaluation import Joined, bytes_an_example, evaluate, evaluate_batches, measured_at_once
from streamtrain.model.gradient import Gradient
from streamtrain.model.objective import cross_entropy
from streamtrain.packing import PackOptions, pack
from streamtrain.prepare.plan import plan
from streamtrain.values import Risk, examples_in
from tests.support.command import ROOT
from tests.unit.model.test_gradient import JOB, arrays, loaded


def weighted(output: torch.Tensor, target: torch.Tensor) -> Weighted:
    losses = cross_entropy(output, target)
    return Weighted(losses * (target + 1), target + 1)


def assert_close(found: Risk, expected: Risk) -> None:
    assert found.quantities.keys() == expected.quantities.keys()
    for name, moments in expected.quantities.items():
        its = found.quantities[name]
        assert its.count == moments.count and its.mean == pytest.approx(moments.mean, nan_ok=True)
        assert its.standard_error == pytest.approx(moments.standard_error, nan_ok=True)
        assert (its.joint is None) == (moments.joint is None)
        if moments.joint is not None and its.joint is not None:
            assert its.joint.sums == pytest.approx(moments.joint.sums)
            assert its.joint.products == pytest.approx(moments.joint.products)


@pytest.mark.parametrize("loss", ["cross_entropy", weighted])
def test_slices_that_go_together_have_the_risks_of_each(loss: Any) -> None:
    metrics = {"both": OfMeans(lambda mean, loss: loss - mean, lambda output, _: output[:, 0], "loss")}
    gradient, _ = loaded(dataclasses.replace(JOB, loss=loss, metrics=metrics))
    slices = [arrays(size, seed=size) if size else {} for size in (7, 0, 1, 12, 0)]
    for found, each in zip(evaluate_batches(gradient, [slices]), slices, strict=True):
        assert_close(found, evaluate(gradient, each))
    assert [each.loss.count for each in evaluate_batches(gradient, [[{}, {}]])] == [0, 0]


@pytest.mark.parametrize("loss", ["cross_entropy", weighted, lambda output, _: output[:, 0] / 0.0])
def test_promise_5_risks_of_a_batch_have_the_same_bits_whoever_measures_the_others(loss: Any) -> None:
    gradient, _ = loaded(dataclasses.replace(JOB, loss=loss))
    batches = [[arrays(size, seed=size) for size in sizes] for sizes in ((7, 130, 1), (12,), (3, 3))]
    apart = [risk for batch in batches for risk in evaluate_batches(gradient, [batch])]
    joined = [
        Joined({name: np.concatenate([each[name] for each in batch]) for name in batch[0]}, [*map(examples_in, batch)])
        for batch in batches
    ]
    for several in (batches, joined):
        assert repr(evaluate_batches(gradient, several)) == repr(apart)  # NaN is not equal to itself


def test_slices_whose_examples_differ_in_shape_go_one_by_one() -> None:
    job = dataclasses.replace(JOB, model=Longest)
    slices = [{"x": arrays(3)["x"][:, :length], "label": arrays(3)["label"]} for length in (6, 4)]
    gradient, _ = loaded(job)
    assert evaluate_batches(gradient, [slices]) == [evaluate(gradient, each) for each in slices]


class Longest(torch.nn.Module):
    """Takes examples of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(1, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(x.mean(1, keepdim=True))
        return output


def test_a_slice_goes_through_the_model_in_pieces_that_fit() -> None:
    gradient, _ = loaded(JOB)
    sizes: list[int] = []
    gradient.model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    assert_close(evaluate(gradient, arrays(), most=4), evaluate(gradient, arrays()))
    assert sizes == [4, 4, 2, 10]


@pytest.mark.parametrize("together", [True, False])
def test_a_wrong_weight_is_counted_over_all_that_go_together_or_in_turn(together: bool) -> None:
    gradient, _ = loaded(dataclasses.replace(JOB, loss=lambda output, target: Weighted(output[:, 0], 1.0 - target)))
    good, bad = arrays(9), arrays(6)
    good["label"][:] = 0
    bad["label"][:] = [0, 0, 0, 0, 2, 0]
    with pytest.raises(WrongWeight) as found:
        if together:
            evaluate_batches(gradient, [[good, bad]])
        else:
            evaluate(gradient, {name: np.concatenate([good[name], bad[name]]) for name in good}, most=5)
    assert found.value.index == 13


class Frozen(torch.nn.Module):
    """Nothing of its first part is kept for a backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 5000).requires_grad_(False)
        self.last = torch.nn.Linear(5000, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(self.first(x))
        return output


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [
        (Frozen, 5000 * 8, 5000 * 8 + 2000),
        (
            functools.partial(torch.nn.Linear, 6, 4000),
            3 * 4000 * 8,
            12 * 4000 * 8,
        ),  # losses and margins of so many classes
    ],
)
def test_bytes_of_an_example_are_all_that_is_made_of_it(tmp_path: Path, model: Any, least: int, most: int) -> None:
    many = arrays(30)
    np.savez(tmp_path / "data.npz", **many)
    pack(str(tmp_path / "data.npz"), tmp_path / "data", PackOptions(splits=(0.8, 0.2, 0.0)))
    job = dataclasses.replace(JOB, data=Data(str(tmp_path / "data"), inputs=("x",)), model=model)
    plans = plan(job)
    assert least <= bytes_an_example(job, Gradient(job), plans.reader("train")) <= most
    small = dataclasses.replace(job, micro_batch=2)
    assert bytes_an_example(small, Gradient(job), plans.reader("train")) == 0


def test_counting_them_imports_no_compiler(tmp_path: Path) -> None:
    """It takes a second to import, at every start of a run."""
    np.savez(tmp_path / "data.npz", **arrays(30))
    pack(str(tmp_path / "data.npz"), tmp_path / "data", PackOptions(splits=(0.8, 0.2, 0.0)))
    code = f"""
import sys
import torch
import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
job = st.Job(st.Data({str(tmp_path / "data")!r}, inputs=("x",)), lambda: torch.nn.Linear(6, 6), batch_size=4)
assert preflight(plan(job)).example_bytes > 0
assert not {{"torch._inductor", "torch._dynamo", "sympy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_fails_with_one_example_alone_is_not_known(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays(30))
    pack(str(tmp_path / "data.npz"), tmp_path / "data", PackOptions(splits=(0.8, 0.2, 0.0)))
    data = Data(str(tmp_path / "data"), inputs=("x",), transform=lambda batch: batch | {"x": batch["x"].squeeze()})
    job = dataclasses.replace(JOB, data=data, model=Longest)
    assert bytes_an_example(job, Gradient(job), plan(job).reader("train")) == 0


@pytest.mark.parametrize(
    ("settings", "example_bytes", "expected"),
    [
        ({}, 0.0, 1),
        ({"batch_size": 24, "lanes": 2}, 0.0, 12),
        ({}, 100.0, 640),
        ({}, 2.0**30 / 100, 64),
        ({}, 2.0**40, 1),
        ({"batch_size": 24, "lanes": 2}, 2.0**40, 12),
        ({"batch_size": 24, "lanes": 2, "micro_batch": 3}, 100.0, 3),
        ({"loss_over": "minibatch", "loss": weighted}, 100.0, None),
    ],
)
def test_as_many_are_measured_at_once_as_fit(settings: Any, example_bytes: float, expected: int | None) -> None:
    job = dataclasses.replace(JOB, **{"batch_size": 1} | settings)
    assert measured_at_once(job, example_bytes) == expected
