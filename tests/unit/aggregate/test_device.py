"""The exchange of GPU workers, on the CPU: the updates of the shared one; and on "meta", which cannot be waited for."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.collective.group import Membership
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange, settle
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    DeviceMemory,
    private_memory,
)
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.state import State
from streamtrain.errors import NonFiniteError
from streamtrain.job import Average, Clip, Data, Group, Job, Schedule
from streamtrain.model.gradient import Gradient
from streamtrain.stream.ahead.copies import copied_ahead
from streamtrain.values import Arrays, Update

LANES, STEPS = 3, 8
FULL = Descent(
    SGD(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    clip=Clip(value=0.5, norm=1.0),
    average=Average(0.9),
    schedule=Schedule("cosine", warmup_steps=3),
    groups=(Group("*.bias", weight_decay=0.0, clip=Clip(norm=0.1)), Group("layers.3.*", clip=Clip(adaptive=0.05))),
)
SETTINGS = {
    "full": FULL,
    "plain": Descent(SGD(lr=0.1)),
    "nesterov": Descent(SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "skip": Descent(SGD(lr=0.1, momentum=0.9), nonfinite="skip", skip_limit=2, average=Average(0.9)),
}


class Network(torch.nn.Module):
    """BatchNorm, dropout, and a layer that is not used in every minibatch."""

    def __init__(self) -> None:
        layers = (torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4))
        super().__init__()
        self.layers, self.seldom = torch.nn.Sequential(*layers), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(x) if len(x) % 2 else self.seldom(self.layers(x))
        return output


def examples(step: int, lane: int, bad: tuple[int, ...]) -> Arrays:
    """Of another number in every step; the last minibatch has an empty lane."""
    count = 0 if step == STEPS - 1 and lane == 1 else 5 + step % 2
    generator = np.random.default_rng(10 * step + lane)
    x = generator.normal(size=(count, 6))
    if step in bad and lane == 2:
        x[0, 0] = math.nan
    return {"x": x, "label": generator.integers(0, 4, count)}


def job_of(descent: Descent, **others: object) -> Job:
    job = Job(
        Data("unused", inputs=("x",)), Network, **vars(descent), batch_size=LANES * 6, lanes=LANES, precision="float64"
    )
    return dataclasses.replace(job, **others)  # type: ignore[arg-type]


def trained(job: Job, device: str | None, bad: tuple[int, ...] = (), own_every: int = 0) -> tuple[list[Update], State]:
    """All steps on one worker: on a device, or with ``None`` by the shared exchange."""
    placed = dataclasses.replace(job)
    object.__setattr__(placed, "device", device or "cpu")  # "meta" is none that a job may have
    gradient = Gradient(placed)
    scaled = job.precision == "fp16"
    layout, members = gradient.layout, Membership(0, (range(LANES),))
    aggregator = Aggregator(
        layout,
        Descent.of(job),
        rate_of=LearningRate(job.schedule, job.batch_size, STEPS),
        worker=0,
        workers=1,
        own_every=own_every,
        scaled=scaled,
    )
    exchange: Exchange
    if device is None:
        memory = private_memory(layout, Descent.of(job), Capacity(LANES))
        gradient.write(memory.states[0], gradient.model.state_dict())
        exchange = SharedExchange(memory, aggregator, [range(LANES)], 0, {0: 0})
    else:
        place = torch.device(device)
        there = DeviceMemory(layout, Descent.of(job), LANES, range(LANES), place)
        gradient.write(there.states[0], gradient.model.state_dict())
        if device == "meta":
            gradient.objective._autocast = contextlib.nullcontext
        arithmetic = DeviceArithmetic(aggregator, place)
        exchange = DeviceExchange(layout, aggregator, arithmetic, there, members)
    made = []
    for step in range(STEPS):
        gradient.load(exchange.state)
        for lane in range(LANES):
            batch = examples(step, lane, bad)
            if len(batch["x"]):
                gradient.lane(batch, exchange.slot(lane), seed=LANES * step + lane)
            else:
                gradient.empty_lane(exchange.slot(lane))
        made.append(exchange.meet())
    return [] if device == "meta" else settle(made), exchange.state


@pytest.mark.parametrize(("name", "micro_batch"), [*((name, None) for name in SETTINGS), ("full", 3)])
def test_on_a_device_updates_are_those_of_the_shared_exchange(name: str, micro_batch: int | None) -> None:
    job, bad = job_of(SETTINGS[name], micro_batch=micro_batch), (2, 3, 5) if name == "skip" else ()
    (expected, theirs), (found, ours) = (trained(job, device, bad) for device in (None, "cpu"))
    assert [update.skipped for update in found] == [update.skipped for update in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.loss.count == other.loss.count and one.learning_rate == other.learning_rate
        for ours_, theirs_ in ((one.loss, other.loss), (one.error, other.error)):
            assert (ours_.mean, ours_.m2) == pytest.approx((theirs_.mean, theirs_.m2), rel=1e-12, nan_ok=True)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-12, nan_ok=True)
        assert one.clip_scale == pytest.approx(other.clip_scale, rel=1e-12)
    for name, part in {**ours.vectors, "buffers": ours.buffers}.items():
        torch.testing.assert_close(part, theirs.parts[name], rtol=1e-11, atol=1e-13)
    for part in ("counters", "uses"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part)), part


def test_on_a_device_norms_in_the_optimizers_own_are_those_of_the_shared_exchange() -> None:
    job = job_of(Descent(AdamW(lr=0.01), clip=Clip(norm=0.1)))
    expected, found = (trained(job, device, own_every=2)[0] for device in (None, "cpu"))
    assert sum(update.own is not None for update in expected) == STEPS // 2
    for one, other in zip(found, expected, strict=True):
        assert (one.own is None) == (other.own is None) and one.norms is None
        if one.own is not None and other.own is not None:
            assert one.own.whole == pytest.approx(other.own.whole, rel=1e-9)
            assert one.own.lanes == tuple((n, pytest.approx(squared, rel=1e-9)) for n, squared in other.own.lanes)


def test_on_a_device_a_gradient_that_is_not_finite_stops_with_the_state_before_it() -> None:
    job = job_of(SETTINGS["nesterov"])
    with pytest.raises(NonFiniteError, match="step 2: expected a finite loss and gradient"):
        trained(job, "cpu", (2,))
    job = job_of(SETTINGS["skip"])
    with pytest.raises(NonFiniteError, match="step 4: expected"):
        trained(job, "cpu", (2, 3, 4))


def test_on_a_device_fp16_overflows_are_left_out() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 100 * torch.nn.functional.cross_entropy(output.float(), target, reduction="none")

    job = job_of(Descent(SGD(lr=1e-4)), precision="fp16", loss=loss, error="zero_one")
    (expected, theirs), (found, ours) = (trained(job, device) for device in (None, "cpu"))
    flags = [(update.skipped, update.overflowed, update.loss_scale) for update in found]
    assert flags == [(update.skipped, update.overflowed, update.loss_scale) for update in expected]
    assert any(update.overflowed for update in found) and torch.equal(ours.scaler, theirs.scaler)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_step_never_waits_for_its_device(name: str, precision: str) -> None:
    """A tensor on "meta" has no numbers: whatever asks for one, or copies one to the host, raises."""
    _, state = trained(job_of(SETTINGS[name], precision=precision), "meta")
    assert state.parameters.device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(state.parameters[0])


def test_batches_are_copied_one_ahead() -> None:
    asked = []

    def batches() -> object:
        for number in range(3):
            asked.append(number)
            yield {"x": np.full(2, number)} if number != 1 else {}

    coming = copied_ahead(batches(), torch.device("cpu"))  # type: ignore[arg-type]
    assert next(coming)["x"].tolist() == [0, 0] and asked == [0, 1]
    assert next(coming) == {} and asked == [0, 1, 2]
    assert next(coming)["x"].tolist() == [2, 2] and list(coming) == []
