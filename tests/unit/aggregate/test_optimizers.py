"""Every optimizer against `torch.optim`'s, in float64 over 200 steps, with all that is around it."""

import dataclasses
import fnmatch
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import CHUNK, Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.moments import write_moments
from streamtrain.aggregate.optimizers import known_optimizers
from streamtrain.aggregate.optimizers.adagrad import Adagrad
from streamtrain.aggregate.optimizers.adam import Adam
from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.lion import Lion
from streamtrain.aggregate.optimizers.muon import Muon
from streamtrain.aggregate.optimizers.rmsprop import RMSprop
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.state import State
from streamtrain.aggregate.vector import Layout, layout_of
from streamtrain.job import Average, Clip, Group, Optimizer, Schedule
from streamtrain.values import Moments
from tests.support.slots import leave

STEPS, LANES, WARM = 200, 4, 10
SKIPPED = (0, 7, 8, 120)
Parameters = dict[str, torch.Tensor]


class Model(torch.nn.Module):
    """More than a chunk, a tied and a frozen parameter, and one that is used in some steps only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.wide = torch.nn.Linear(300, 120, dtype=torch.float64)
        self.tied = self.wide
        self.frozen = torch.nn.Linear(3, 3, dtype=torch.float64).requires_grad_(False)
        self.seldom = torch.nn.Linear(50, 5, dtype=torch.float64)


def gradients_of(model: Model, step: int, lane: int) -> Parameters:
    """A lane's sums; ``seldom`` has none in two steps of three."""
    generator = torch.Generator().manual_seed(1000 * step + lane)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) * 3 + p.detach()
        for name, p in model.named_parameters()
        if p.requires_grad and (step % 3 == 1 or not name.startswith("seldom"))
    }


def examples_of(step: int, lane: int) -> int:
    """Every tenth minibatch is short, and its last lane empty."""
    return 8 if step % 10 < 9 else (3 if lane < LANES - 1 else 0)


class PlainLion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. 2023, line by line."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (c.sign() + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


TWINS: dict[type[Optimizer], Callable[..., torch.optim.Optimizer]] = {
    SGD: torch.optim.SGD,
    Adam: torch.optim.Adam,
    AdamW: torch.optim.AdamW,
    Lion: PlainLion,
    RMSprop: torch.optim.RMSprop,
    Adagrad: torch.optim.Adagrad,
}
PLAIN: dict[str, Optimizer] = {
    "sgd": SGD(lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "adam": Adam(lr=0.01, betas=(0.8, 0.95), weight_decay=0.01),
    "adam, amsgrad": Adam(lr=0.01, amsgrad=True, eps=1e-3),
    "adamw": AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    "adamw, amsgrad": AdamW(lr=0.01, amsgrad=True),
    "lion": Lion(lr=0.003, weight_decay=0.1),
    "rmsprop": RMSprop(lr=0.003, alpha=0.9, weight_decay=0.01),
    "rmsprop, centered": RMSprop(lr=0.003, momentum=0.8, centered=True),
    "adagrad": Adagrad(lr=0.1, lr_decay=0.01, weight_decay=0.01, initial_accumulator_value=0.1),
    "adagrad, plain": Adagrad(lr=0.1),
}
COSINE = Schedule("cosine", warmup_steps=WARM, floor=0.1)


def around(optimizer: Optimizer) -> dict[str, Descent]:
    """An optimizer with all that a job may set beside it."""
    decays = Group("*.bias", weight_decay=0.02, lr_factor=0.5)
    other: dict[str, Any] = {"betas": (0.7, 0.9)} if hasattr(optimizer, "betas") else {}
    return {
        "groups": Descent(optimizer, groups=(decays, Group("seldom.*", lr=optimizer.lr * 2, **other))),
        "clipped": Descent(
            optimizer, Clip(value=2.0, norm=20.0), groups=(Group("seldom.*", clip=Clip(norm=0.5, value=0.0)),)
        ),
        "schedule, average": Descent(optimizer, schedule=COSINE, average=Average(0.9)),
        "equal average": Descent(optimizer, average=Average(equal=True, start=20, every=7)),
        "skips": Descent(optimizer, Clip(norm=10.0), nonfinite="skip", average=Average(0.9, start=3)),
    }


CASES = {name: Descent(optimizer) for name, optimizer in PLAIN.items()} | {
    f"{name}: {what}": descent for name, optimizer in PLAIN.items() for what, descent in around(optimizer).items()
}


def members_of(descent: Descent, model: Model) -> Iterator[tuple[Group | None, list[torch.nn.Parameter]]]:
    """Every group's parameters, and those of none."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for group in (None, *descent.groups):
        yield group, [p for name, p in named if group == group_of(descent, name)]


def group_of(descent: Descent, name: str) -> Group | None:
    return next((group for group in descent.groups if fnmatch.fnmatch(name, group.pattern)), None)


def textbook(descent: Descent) -> tuple[Parameters, Parameters]:
    """A plain loop with PyTorch's own optimizer, clipping and averaging: the parameters, and their average."""
    model = Model()
    members = list(members_of(descent, model))
    own = [descent.optimizer if group is None else group.optimizer(descent.optimizer) for group, _ in members]
    rows = [{"params": p, **options_of(each)} for each, (_, p) in zip(own, members, strict=True)]
    optimizer = TWINS[type(descent.optimizer)](rows, **{**options_of(descent.optimizer), "lr": 1.0})
    average = descent.average
    function = None if average.decay is None else get_ema_multi_avg_fn(average.decay)
    averaged = AveragedModel(model, multi_avg_fn=function)
    for step in range(STEPS):
        if descent.nonfinite == "skip" and step in SKIPPED:
            continue
        optimizer.zero_grad(set_to_none=True)
        examples = sum(examples_of(step, lane) for lane in range(LANES))
        for lane in range(LANES):
            for name, gradient in gradients_of(model, step, lane).items() if examples_of(step, lane) else ():
                parameter = model.get_parameter(name)
                before = 0 if parameter.grad is None else parameter.grad
                parameter.grad = gradient / examples + before
        clip(descent, members)
        for settings, each, (group, _) in zip(optimizer.param_groups, own, members, strict=True):
            settings["lr"] = each.lr * factor(descent, step) * (1.0 if group is None else group.lr_factor)
        optimizer.step()
        if average.takes_in(step):
            averaged.update_parameters(model)
    mean = dict(averaged.module.named_parameters())
    return {name: p.detach() for name, p in model.named_parameters()}, {name: mean[name].detach() for name in mean}


def factor(descent: Descent, step: int) -> float:
    if descent.schedule == Schedule():
        return 1.0
    done = (step - WARM) / (STEPS - 1 - WARM)
    return (step + 1) / WARM if step < WARM else 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def options_of(optimizer: Optimizer) -> dict[str, Any]:
    """Its settings, as PyTorch's optimizer of that kind takes them."""
    own = {each.name: getattr(optimizer, each.name) for each in dataclasses.fields(optimizer)}
    return {name: value for name, value in own.items() if name not in ("lr", "lr_batch_size")}


def clip(descent: Descent, members: list[tuple[Group | None, list[torch.nn.Parameter]]]) -> None:
    shared: list[torch.nn.Parameter] = []
    for group, own in members:
        bounds = descent.clip.of_group(Clip() if group is None else group.clip)
        if bounds.value:
            torch.nn.utils.clip_grad_value_(own, bounds.value)
        if group is None or group.clip.norm is None:
            shared += own
        elif group.clip.norm:
            torch.nn.utils.clip_grad_norm_(own, group.clip.norm)
    if descent.clip.norm is not None:
        torch.nn.utils.clip_grad_norm_(shared, descent.clip.norm)


def trained(descent: Descent) -> tuple[State, Layout]:
    """All steps of one worker by the shared exchange."""
    model = Model()
    layout = layout_of(model)
    memory = private_memory(layout, descent, Capacity(LANES))
    memory.states[0].begin(layout, {**dict(model.named_parameters()), **dict(model.named_buffers())}, scaled=False)
    aggregator = Aggregator(layout, descent, rate_of=LearningRate(descent.schedule, 32, STEPS), worker=0, workers=1)
    exchange = SharedExchange(memory, aggregator, [range(LANES)], 0, {0: os.getpid()})
    for step in range(STEPS):
        for place in layout.parameters:
            model.get_parameter(place.name).data = place.view(exchange.state.parameters)
        for lane in range(LANES):
            slot, count = exchange.slot(lane), examples_of(step, lane)
            found = gradients_of(model, step, lane) if count else {}
            slot.used[:] = [place.name in found for place in layout.parameters]
            write_moments(slot, Moments(count, 1.0), Moments(count))
            vector = torch.zeros(layout.size, dtype=layout.dtype)
            for place in layout.parameters:
                place.view(vector).copy_(found.get(place.name, torch.zeros(())))
            if descent.nonfinite == "skip" and step in SKIPPED and lane == 1:
                vector[7] = math.nan
            leave(slot, vector)
        exchange.meet()
    return exchange.state, layout


@pytest.mark.parametrize("name", CASES)
def test_promise_4_every_optimizer_is_the_textbooks_after_200_steps(name: str) -> None:
    descent = CASES[name]
    state, layout = trained(descent)
    expected, average = textbook(descent)
    assert layout.size > CHUNK and len(layout.parameters) == 4, "tied ones once, frozen ones not at all"
    for place in layout.parameters:
        assert relative(place.view(state.parameters), expected[place.name]) < 1e-9, place.name
        if descent.average.is_kept:
            assert relative(place.view(state.evaluated), average[place.name]) < 1e-9, place.name


def test_every_optimizer_of_the_folder_is_held_by_these_tests() -> None:
    held = {type(optimizer) for optimizer in PLAIN.values()}
    assert held == set(TWINS) and held | {Muon} == set(known_optimizers().values()), "Muon has a file of its own"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
