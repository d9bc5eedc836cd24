"""Promise 13, the mean is over weights: a loss over tokens against one process that has the whole minibatch."""

import dataclasses
import itertools
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import streamtrain as st
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.collective.group import Membership
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange, settle
from streamtrain.aggregate.exchange.memory import Capacity, DeviceMemory, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.moments import NoWeight, WrongWeight, take_moments
from streamtrain.job.settings import settings_of
from streamtrain.model.gradient import Gradient, Part
from streamtrain.prepare.description import show
from streamtrain.values import Arrays, Update
from tests.support.tokens import LONGEST, Language, language_job, sequences, token_loss, token_losses

RATE = 0.3
LENGTHS = some.lists(some.integers(0, LONGEST), min_size=1, max_size=17).filter(any)


def one_step(
    arrays: Arrays, lanes: int, micro_batch: int | None, device: str = "", **others: Any
) -> tuple[torch.Tensor, Update]:
    """The parameters after a step of one worker, and the update; by the exchange of devices where one is named."""
    made = language_job(
        "unused", optimizer=st.SGD(lr=RATE), batch_size=lanes, lanes=lanes, micro_batch=micro_batch, **others
    )
    gradient = Gradient(made)
    layout, descent = gradient.layout, Descent.of(made)
    rate = LearningRate(descent.schedule, lanes, 2)
    aggregator = Aggregator(layout, descent, rate_of=rate, worker=0, workers=1, norms_every=1)
    exchange: SharedExchange | DeviceExchange
    if device:
        on = torch.device(device)
        memory = DeviceMemory(layout, descent, lanes, range(lanes), on)
        members = Membership(0, (range(lanes),))
        exchange = DeviceExchange(layout, aggregator, DeviceArithmetic(aggregator, on), memory, members)
    else:
        private = private_memory(layout, descent, Capacity(lanes))
        exchange = SharedExchange(private, aggregator, [range(lanes)], 0, {0: os.getpid()})
    gradient.write(exchange.state, gradient.model.state_dict())
    gradient.load(exchange.state)
    cuts = np.linspace(0, len(arrays["next"]), lanes + 1).astype(int)
    parts = ({name: each[a:b] for name, each in arrays.items()} for a, b in itertools.pairwise(cuts))
    gradient.lanes(
        [Part(lane, part if len(part["next"]) else {}, lane) for lane, part in enumerate(parts)], exchange.slot
    )
    (update,) = settle([exchange.meet()])
    return torch.cat([place.view(exchange.state.parameters).flatten() for place in layout.parameters]), update


def textbook(arrays: Arrays) -> tuple[torch.Tensor, float]:
    """The same by a plain loop that has the whole minibatch, and its mean loss."""
    torch.manual_seed(0)
    model = Language().double()
    target = torch.from_numpy(arrays["next"])
    loss = token_losses(model(torch.from_numpy(arrays["tokens"])), target).sum() / (target >= 0).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=RATE).step()
    return torch.cat([each.detach().flatten() for each in model.parameters()]), float(loss.detach())


@given(LENGTHS, some.integers(1, 8), some.none() | some.integers(1, 4))
@settings(max_examples=40)
def test_a_step_is_the_textbooks_for_any_lanes_and_pieces(
    lengths: list[int], lanes: int, micro_batch: int | None
) -> None:
    arrays = sequences(lengths)
    found, update = one_step(arrays, lanes, micro_batch)
    expected, loss = textbook(arrays)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert update.loss.mean == pytest.approx(loss, rel=1e-9)
    assert (update.loss.count, update.loss.weight) == (len(lengths), sum(lengths))


def test_a_device_makes_the_same_step() -> None:
    arrays = sequences([3, 0, 9, 1, 1, 7, 2])
    expected, on_host = one_step(arrays, 3, None)
    found, on_device = one_step(arrays, 3, None, "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert on_device.loss.mean == pytest.approx(on_host.loss.mean, rel=1e-12)
    assert on_device.loss.standard_error == pytest.approx(on_host.loss.standard_error, rel=1e-9)
    assert on_device.error.mean == pytest.approx(on_host.error.mean, rel=1e-12)
    with pytest.raises(NoWeight, match="step 0, weights: expected weights above 0 in a minibatch, found only 0"):
        one_step(sequences([0, 0, 0]), 3, None, "cpu")

    def negative(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
        return st.Weighted(output.mean((1, 2)), torch.full((len(output),), -1.0))

    with pytest.raises(st.JobError, match="step 0, weights: expected numbers from 0 on, found one that is negative"):
        one_step(arrays, 3, None, "cpu", loss=negative, error=None)


def test_a_minibatch_without_any_weight_is_refused_by_its_step() -> None:
    with pytest.raises(NoWeight, match="step 0, weights: expected weights above 0 in a minibatch, found only 0"):
        one_step(sequences([0, 0, 0, 0]), 2, None)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_wrong_weight_is_refused_by_its_example(weight: float) -> None:
    weights = torch.tensor([1.0, 2.0, weight, 3.0])
    with pytest.raises(WrongWeight, match=f"weights: expected numbers from 0 on, found {weight:g} of example 2") as e:
        take_moments(st.Weighted(torch.ones(4), weights))
    assert e.value.index == 2


def test_equal_weights_give_the_bits_of_none() -> None:
    """Of a number of examples that is a power of two, and of another."""
    for examples in (8, 7):
        arrays = sequences([LONGEST] * examples)

        def plain(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return token_losses(output, target).sum(1)

        def ones(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
            return st.Weighted(plain(output, target), torch.ones(len(target)))

        steps = [one_step(arrays, 4, None, loss=loss, error=None)[0] for loss in (plain, ones)]
        assert torch.equal(*steps)


def test_lanes_norms_are_of_their_mean_gradients() -> None:
    """Two lanes with the same examples, one of them twice as many tokens in all: their mean gradients are one."""
    arrays = sequences([4, 4, 4, 4])
    twice = {name: np.concatenate([each[:1], each[:1], each[:1], each[:1]]) for name, each in arrays.items()}
    norms = one_step(twice, 2, None)[1].norms
    assert norms is not None
    (first, second) = norms.lanes
    assert first[0] == second[0] == 2 and first[1] == pytest.approx(second[1]) == pytest.approx(norms.total.gradient)


def test_a_weighted_loss_without_tensors_of_one_shape_is_refused() -> None:
    with pytest.raises(st.JobError, match=r"st.Weighted: expected sums and weights of one shape, found \(2,\) and"):
        st.Weighted(torch.ones(2), torch.ones(3))
    with pytest.raises(st.JobError, match="st.Weighted, weights: expected a tensor, found int"):
        st.Weighted(torch.ones(2), 3)  # type: ignore[arg-type]


def test_half_precision_leaves_weights_alone() -> None:
    job = dataclasses.replace(language_job("unused"), precision="bf16", lanes=2)
    gradient = Gradient(job)
    memory = private_memory(gradient.layout, Descent.of(job), Capacity(2))
    gradient.write(memory.states[0], gradient.model.state_dict())
    gradient.load(memory.states[0])
    gradient.lane(sequences([3, 5]), memory.slots[0], 1)
    assert memory.slots[0].moments[2] == 8 and torch.isfinite(memory.slots[0].gradient).all()
    assert token_loss(torch.zeros(1, LONGEST, 11), torch.zeros(1, LONGEST, dtype=torch.int64)).weights.item() == 9


def test_metrics_are_shown_alike_in_every_process() -> None:
    """A resumed run compares them with those that it began with."""

    def wrong(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output

    def shown() -> dict[str, str]:
        metrics = {"m": lambda output, target: output, "p": st.OfMeans(math.exp, "loss", wrong)}
        return {each.name: show(each) for each in settings_of(language_job("unused", metrics=metrics))}

    assert shown()["metrics"] == shown()["metrics"] == "m: <lambda>, p: exp of loss and wrong"


def test_what_cannot_be_a_function_of_means_is_refused() -> None:
    with pytest.raises(st.ConfigError, match="st.OfMeans: expected what the means are of, after the function"):
        st.OfMeans(math.exp)
    with pytest.raises(st.ConfigError, match="st.OfMeans: expected a function of the means first, found 'loss'"):
        st.OfMeans("loss")  # type: ignore[arg-type]
    with pytest.raises(st.ConfigError, match="metrics, 'p': expected names of metrics that are means, found 'nll'"):
        language_job("unused", metrics={"p": st.OfMeans(math.exp, "nll")})
