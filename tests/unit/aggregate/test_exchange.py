"""The exchange of one host against `torch.optim.SGD`, with workers as threads."""

import dataclasses
import fnmatch
import functools
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from streamtrain.aggregate.buffers import update_buffers
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.decision import Decision
from streamtrain.aggregate.descent.rules import CHUNK, Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, Memory, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.moments import write_moments
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import Layout, layout_of, write
from streamtrain.errors import NonFiniteError, WorkerLost
from streamtrain.job import Average, Clip, Group, Optimizer, Schedule
from streamtrain.order import hosting_of
from streamtrain.values import Moments, Update
from tests.support.slots import leave

Parameters = dict[str, torch.Tensor]
Members = dict[Group | None, list[torch.nn.Parameter]]
STEPS = 12
LANES = 4


class Model(torch.nn.Module):
    """Several chunks, a tied and a frozen parameter, and one that is used in odd steps only."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.wide = torch.nn.Linear(300, 250, dtype=dtype)
        self.tied = self.wide
        self.frozen = torch.nn.Linear(3, 3, dtype=dtype).requires_grad_(False)
        self.seldom = torch.nn.Linear(250, 5, dtype=dtype)


@functools.cache
def gradients_of(dtype: torch.dtype, step: int, lane: int) -> Parameters:
    generator = torch.Generator().manual_seed(1000 * step + lane)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) * 3
        for name, p in Model(dtype).named_parameters()
        if p.requires_grad and (step % 2 or not name.startswith("seldom"))
    }


def examples_of(step: int, lane: int) -> int:
    """The last minibatch is short, and its last lane empty."""
    return 8 if step < STEPS - 1 else (3 if lane < LANES - 1 else 0)


WARM = 4
RATES: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "warm-up": lambda step: min(1.0, (step + 1) / WARM),
    "linear": lambda step: 1.0 - 0.9 * step / (STEPS - 1),
    "cosine": lambda step: (
        (step + 1) / WARM
        if step < WARM
        else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARM) / (STEPS - 1 - WARM)))
    ),
    "step": lambda step: 0.1 ** ((step >= 3) + (step >= 6)),
    "inverse square root": lambda step: min((step + 1) / WARM, math.sqrt(WARM / (step + 1))),
    "linear scaling": lambda step: 32 / 8,
}
"""Factors of the learning rate by step, written down from what the settings promise."""


def textbook(
    model: Model, descent: Descent, factor: Callable[[int], float], skipped: tuple[int, ...] = ()
) -> tuple[Parameters, Parameters]:
    """A plain loop with PyTorch's own optimizer, clipping and averaging: the parameters, and their average."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    members: Members = {}
    for name, parameter in parameters.items():
        group = next((g for g in descent.groups if fnmatch.fnmatch(name, g.pattern)), None)
        members.setdefault(group, []).append(parameter)
    own = [descent.optimizer if g is None else g.optimizer(descent.optimizer) for g in members]
    rows = [{"params": p, **options_of(each)} for each, p in zip(own, members.values(), strict=True)]
    optimizer = TWINS[type(descent.optimizer)](rows, lr=1.0)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(descent.average.decay or 0.5))
    for step in (step for step in range(STEPS) if step not in skipped):
        optimizer.zero_grad(set_to_none=True)
        examples = sum(examples_of(step, lane) for lane in range(LANES))
        for lane in range(LANES):
            if examples_of(step, lane):
                for name, gradient in gradients_of(torch.float64, step, lane).items():
                    grad = parameters[name].grad
                    parameters[name].grad = gradient / examples + (0 if grad is None else grad)
        clip(descent, members)
        for settings, group in zip(optimizer.param_groups, members, strict=True):
            settings["lr"] = descent.optimizer.lr * factor(step) * (1.0 if group is None else group.lr_factor)
        optimizer.step()
        averaged.update_parameters(model)
    average = dict(averaged.module.named_parameters())
    return {n: p.detach() for n, p in parameters.items()}, {n: average[n].detach() for n in parameters}


def options_of(optimizer: Optimizer) -> dict[str, Any]:
    """Its settings, as PyTorch's optimizer of that kind takes them in a group of parameters."""
    own = {each.name: getattr(optimizer, each.name) for each in dataclasses.fields(optimizer)}
    return {name: value for name, value in own.items() if name not in ("lr", "lr_batch_size")}


TWINS: dict[type[Optimizer], Callable[..., torch.optim.Optimizer]] = {SGD: torch.optim.SGD}
"""PyTorch's optimizer of each kind."""


def clip(descent: Descent, members: Members) -> None:
    shared: list[torch.nn.Parameter] = []
    for group, own in members.items():
        own = [parameter for parameter in own if parameter.grad is not None]
        bounds = descent.clip.of_group(Clip() if group is None else group.clip)
        if own and bounds.value:
            torch.nn.utils.clip_grad_value_(own, bounds.value)
        if bounds.adaptive:
            adaptive(own, bounds.adaptive)
        if group is None or group.clip.norm is None:
            shared += own
        elif group.clip.norm:
            torch.nn.utils.clip_grad_norm_(own, group.clip.norm)
    if descent.clip.norm is not None:
        torch.nn.utils.clip_grad_norm_(shared, descent.clip.norm)


def adaptive(parameters: list[torch.nn.Parameter], factor: float) -> None:
    """Brock et al. 2021, as their published code does it, unit by unit."""
    for parameter in parameters:
        weights, gradients = parameter.detach(), parameter.grad
        assert gradients is not None
        for weight, gradient in zip(weights, gradients, strict=True) if weights.ndim > 1 else [(weights, gradients)]:
            most = factor * max(float(weight.norm()), 1e-3)
            if float(gradient.norm()) > most:
                gradient *= most / max(float(gradient.norm()), 1e-6)


def contribute(
    exchange: SharedExchange, layout: Layout, model: Model, lane: int, loss: float = 1.0, bad: float | None = None
) -> None:
    """A lane's part; with ``bad`` in place of an element of its gradient."""
    slot, step = exchange.slot(lane), exchange.step
    vector = torch.zeros(layout.size, dtype=layout.dtype)
    count = examples_of(step, lane)
    gradients = gradients_of(model.wide.weight.dtype, step, lane) if count else {}
    for index, place in enumerate(layout.parameters):
        slot.used[index] = place.name in gradients
        if place.name in gradients:
            place.view(vector).copy_(gradients[place.name])
    if bad is not None:
        vector[7] = bad
    leave(slot, vector)
    if count:
        write_moments(slot, Moments(count, loss), Moments(count))
    else:
        slot.moments[:] = 0


def run(
    descent: Descent,
    workers: int,
    dtype: torch.dtype,
    each: Callable[[SharedExchange, Layout, Model, int], None] = contribute,
) -> tuple[Memory, Layout, list[list[Update]], list[BaseException]]:
    """All workers as threads on one private block, STEPS steps."""
    layout = layout_of(Model(dtype))
    memory = private_memory(layout, descent, Capacity(LANES, workers))
    write(layout.parameters, dict(Model(dtype).named_parameters()), memory.states[0].parameters)
    done: list[list[Update]] = [[] for _ in range(workers)]
    errors: list[BaseException] = []
    processes = dict.fromkeys(range(workers), os.getpid())

    def work(worker: int) -> None:
        aggregator = Aggregator(
            layout, descent, rate_of=LearningRate(descent.schedule, 32, STEPS), worker=worker, workers=workers
        )
        hosting = hosting_of(LANES, workers)
        exchange = SharedExchange(memory, aggregator, hosting, worker, processes)
        model = Model(dtype)
        try:
            for _ in range(STEPS):
                for lane in hosting[worker]:
                    each(exchange, layout, model, lane)
                done[worker].append(exchange.meet())
        except BaseException as error:
            exchange.abandon()
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return memory, layout, done, errors


SETTINGS = {
    "plain": Descent(SGD(lr=0.1)),
    "momentum": Descent(SGD(lr=0.1, momentum=0.9)),
    "dampening": Descent(SGD(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    "nesterov": Descent(SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "weight decay": Descent(SGD(lr=0.1, weight_decay=0.1)),
    "clip norm": Descent(SGD(lr=0.1, momentum=0.9), clip=Clip(norm=5.0)),
    "clip value": Descent(SGD(lr=0.1), clip=Clip(value=0.2)),
    "both clips": Descent(SGD(lr=0.1, momentum=0.5, weight_decay=0.01), clip=Clip(value=0.2, norm=2.0)),
    "adaptive": Descent(SGD(lr=0.1, momentum=0.9), clip=Clip(adaptive=0.02)),
    "all clips": Descent(SGD(lr=0.1), clip=Clip(value=0.2, adaptive=0.02, norm=0.1)),
    "warm-up": Descent(SGD(lr=0.3, momentum=0.9), schedule=Schedule(warmup_steps=WARM)),
    "cosine": Descent(SGD(lr=0.3, momentum=0.9), schedule=Schedule("cosine", warmup_steps=WARM, floor=0.1)),
    "linear": Descent(SGD(lr=0.3), schedule=Schedule("linear", floor=0.1)),
    "step": Descent(SGD(lr=0.3, momentum=0.9), schedule=Schedule("step", milestones=(3, 6))),
    "inverse square root": Descent(SGD(lr=0.3), schedule=Schedule("inverse_sqrt", warmup_steps=WARM)),
    "skip": Descent(
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01), average=Average(0.9), nonfinite="skip"
    ),
    "linear scaling": Descent(SGD(lr=0.1, lr_batch_size=8)),
    "average": Descent(SGD(lr=0.1, momentum=0.9), average=Average(0.7)),
    "groups": Descent(
        SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
        groups=(Group("*.bias", weight_decay=0.0, lr_factor=2.0), Group("seldom.*", momentum=0.5)),
    ),
    "groups clipped apart": Descent(
        SGD(lr=0.1),
        clip=Clip(norm=2.0, adaptive=0.02),
        groups=(
            Group("seldom.*", clip=Clip(norm=0.5, value=0.1)),
            Group("wide.bias", clip=Clip(norm=0.0, adaptive=0.0)),
        ),
    ),
    "everything": Descent(
        SGD(lr=0.1, momentum=0.8, dampening=0.1, weight_decay=0.01),
        clip=Clip(norm=2.0, value=0.5),
        average=Average(0.9),
        schedule=Schedule("step", milestones=(3, 6)),
        groups=(Group("*.bias", momentum=0.0, weight_decay=0.0, clip=Clip(adaptive=0.1)),),
    ),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_promise_4_the_update_is_the_textbooks(name: str, workers: int) -> None:
    descent = SETTINGS[name]
    skipped = (4, 5, 9) if name == "skip" else ()

    def each(exchange: SharedExchange, layout: Layout, model: Model, lane: int) -> None:
        contribute(exchange, layout, model, lane, bad=math.nan if exchange.step in skipped and lane == 2 else None)

    memory, layout, done, errors = run(descent, workers, torch.float64, each)
    assert not errors and [update.step for update in done[0] if update.skipped] == list(skipped)
    factor = RATES["step" if name == "everything" else name if name in RATES else "constant"]
    expected, average = textbook(Model(torch.float64), descent, factor, skipped)
    final = memory.states[STEPS % 2]
    for place in layout.parameters:
        assert relative(place.view(final.parameters), expected[place.name]) < 1e-9
        if descent.average.is_kept:
            assert relative(place.view(final.evaluated), average[place.name]) < 1e-9
    assert [update.learning_rate for update in done[0]] == pytest.approx(
        [descent.optimizer.lr * factor(step) for step in range(STEPS)]
    )


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", ["both clips", "groups clipped apart", "everything"])
def test_promise_5_same_bits_with_any_number_of_workers(name: str) -> None:
    memory, _, done, _ = run(SETTINGS[name], 1, torch.float32)
    one = memory.states[STEPS % 2]
    for workers in (2, 3, 4):
        memory, _, theirs, _ = run(SETTINGS[name], workers, torch.float32)
        other = memory.states[STEPS % 2]
        assert len(theirs[0]) == STEPS and theirs[0] == done[0]
        assert all(torch.equal(part, other.parts[name]) for name, part in one.parts.items())


def test_all_workers_see_the_same_updates() -> None:
    _, layout, done, _ = run(SETTINGS["clip norm"], 3, torch.float32)
    assert layout.size > 2 * CHUNK
    assert done[0] == done[1] == done[2]
    assert done[0][-1].loss.count == 9 and done[0][-1].clip_scale < 1


@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_promise_6_a_non_finite_step_happens_not_at_all(where: str, value: float) -> None:
    def each(exchange: SharedExchange, layout: Layout, model: Model, lane: int) -> None:
        bad = exchange.step == 5 and lane == 2
        loss, element = (value, None) if where == "loss" else (1.0, value)
        contribute(exchange, layout, model, lane, loss if bad else 1.0, element if bad else None)

    memory, _, done, errors = run(SETTINGS["momentum"], 2, torch.float32, each)
    assert len(errors) == 2
    root = next(error for error in errors if isinstance(error, NonFiniteError))
    assert str(root).startswith("step 5: expected a finite loss and gradient, found loss")
    assert memory.words[0] == 5 and len(done[0]) == 5
    assert all(torch.isfinite(vector).all() for vector in memory.states[1].vectors.values())


def test_a_non_finite_step_is_passed_over_where_that_is_wanted() -> None:
    def each(exchange: SharedExchange, layout: Layout, model: Model, lane: int) -> None:
        contribute(exchange, layout, model, lane, bad=math.nan if exchange.step in (0, 5, 6) and lane == 2 else None)

    descent = Descent(SGD(lr=0.1, momentum=0.9), average=Average(0.9), nonfinite="skip", skip_limit=2)
    memory, _, done, errors = run(descent, 2, torch.float32, each)
    assert not errors and [update.step for update in done[0] if update.skipped] == [0, 5, 6]
    assert all(torch.isfinite(part).all() for part in memory.states[STEPS % 2].parts.values())
    assert memory.states[0].uses.tolist() == [9, 9, 5, 5]

    _, _, done, errors = run(dataclasses.replace(descent, skip_limit=1), 2, torch.float32, each)
    assert len(done[0]) == 6 and "step 6: expected a finite loss" in str(errors[0])


def test_a_skipped_step_leaves_the_state_as_it_was() -> None:
    def each(exchange: SharedExchange, layout: Layout, model: Model, lane: int) -> None:
        contribute(exchange, layout, model, lane, loss=math.inf if exchange.step == STEPS - 1 else 1.0)

    memory, _, done, _ = run(
        Descent(SGD(lr=0.1, momentum=0.9), average=Average(0.9), nonfinite="skip"), 1, torch.float32, each
    )
    assert done[0][-1].skipped
    assert all(torch.equal(part, memory.states[1].parts[name]) for name, part in memory.states[0].parts.items())


def test_buffers_are_the_mean_over_the_lanes_that_had_examples_and_integers_those_of_the_first_of_them() -> None:
    layout = layout_of(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    memory = private_memory(layout, Descent(SGD()), Capacity(LANES))
    old, new = memory.states
    for lane, (slot, examples) in enumerate(zip(memory.slots, (0, 4, 5, 3), strict=True)):
        slot.buffers.fill_(10.0**lane)
        slot.counters.fill_(lane)
        slot.moments[0] = examples
    update_buffers(memory.slots, memory.used, Decision(0, 0.1), old, new)
    assert set(new.buffers.tolist()) == {(10 + 100 + 1000) / 3} and new.counters.tolist() == [1]
    update_buffers(memory.slots, memory.used, Decision(1, 0.1, skipped=True), new, old)
    assert torch.equal(old.buffers, new.buffers) and torch.equal(old.counters, new.counters)


def test_a_worker_that_gives_up_is_noticed_by_those_who_wait() -> None:
    def each(exchange: SharedExchange, layout: Layout, model: Model, lane: int) -> None:
        if exchange.step == 3 and lane == LANES - 1:
            raise RuntimeError("mine")
        contribute(exchange, layout, model, lane)

    memory, _, _, errors = run(SETTINGS["plain"], 2, torch.float32, each)
    lost = [error for error in errors if isinstance(error, WorkerLost)]
    assert [str(error) for error in lost] == ["worker 1 gave up, so the others cannot go on"]
    assert memory.words[0] == 3
