"""Optimizers of PyTorch and of other libraries: as in their own loop, saved and loaded in every step, or refused."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from streamtrain.aggregate.descent.rules import Descent, choose_owner, cut_pieces, match_rules, take_share
from streamtrain.aggregate.optimizers import known_optimizers
from streamtrain.aggregate.optimizers.torch_optim import FittedTorch, Torch
from streamtrain.aggregate.saved import collect_tensors, restore
from streamtrain.aggregate.state import NUMBERS
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import ConfigError
from streamtrain.job import Average, Clip, Data, Group, Job
from tests.unit.aggregate.test_optimizers import (
    COSINE,
    LANES,
    SKIPPED,
    STEPS,
    Model,
    Parameters,
    examples_of,
    factor,
    gradients_of,
    relative,
    trained,
)


class Coupled(torch.optim.Optimizer):
    """One number for all parameters, in the group; every step depends on the norm of all gradients together."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "largest": 0.0, "k": 0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in moved))
            group["largest"] = max(group["largest"], norm)
            group["k"] += 1
            with torch.no_grad():
                for p in moved:
                    p -= group["lr"] / math.sqrt(group["k"]) / group["largest"] * p.grad


class Hides(torch.optim.SGD):
    """Counts its steps where nobody finds it."""

    hidden = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.hidden += 1
        for group in self.param_groups:
            with torch.no_grad():
                for p in (p for p in group["params"] if p.grad is not None):
                    p -= p.grad / self.hidden


class Draws(torch.optim.SGD):
    """Moves by random numbers of the process."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p += torch.randn_like(p)


class Lists(torch.optim.SGD):
    """Keeps a list of tensors, as a history is."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            self.state[p]["history"] = [torch.zeros_like(p)]


class Slows(torch.optim.SGD):
    """Changes its rate by itself."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.param_groups[0]["lr"] *= 0.5


class Late(torch.optim.SGD):
    """Begins to keep something after ten steps."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            count = self.state[p]["step"] = self.state[p].get("step", 0) + 1
            if count > 10:
                self.state[p]["more"] = torch.ones(())


optim = torch.optim
MAKERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "nadam": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.01, decoupled_weight_decay=True),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
    "asgd": lambda p: optim.ASGD(p, lr=0.01, t0=50),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
    "adagrad, begun": lambda p: optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adafactor, sums over rows": lambda p: optim.Adafactor(p, lr=0.01),
    "groups": lambda p: optim.NAdam([{"params": p[:1], "lr": 0.02, "betas": (0.8, 0.9)}, {"params": p[1:]}], lr=0.005),
    "some": lambda p: optim.Adamax(p[1:], lr=0.01),
    "coupled": lambda p: Coupled(p, lr=0.5),
}
NADAM = Torch(MAKERS["nadam"])
CASES = {name: Descent(Torch(make)) for name, make in MAKERS.items()} | {
    "nadam: clipped": Descent(NADAM, Clip(value=2.0, norm=20.0)),
    "nadam: schedule, average": Descent(NADAM, schedule=COSINE, average=Average(0.9)),
    "groups: schedule": Descent(Torch(MAKERS["groups"], lr=0.5), schedule=COSINE),
    "nadam: skips": Descent(NADAM, Clip(norm=10.0), nonfinite="skip", average=Average(0.9, start=3)),
    "coupled: skips": Descent(Torch(MAKERS["coupled"]), nonfinite="skip"),
}


def textbook(descent: Descent) -> tuple[Parameters, Parameters]:
    """A plain loop with one optimizer from the first step to the last: the parameters, and their average."""
    declared = descent.optimizer
    assert isinstance(declared, Torch)
    model = Model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = declared.make(parameters)
    rates = [group["lr"] for group in optimizer.param_groups]
    decay = descent.average.decay
    averaged = AveragedModel(model, multi_avg_fn=None if decay is None else get_ema_multi_avg_fn(decay))
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
        if descent.clip.value is not None:
            torch.nn.utils.clip_grad_value_(parameters, descent.clip.value)
        if descent.clip.norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, descent.clip.norm)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * declared.lr * factor(descent, step)
        optimizer.step()
        if descent.average.takes_in(step):
            averaged.update_parameters(model)
    mean = dict(averaged.module.named_parameters())
    return {name: p.detach() for name, p in model.named_parameters()}, {name: mean[name].detach() for name in mean}


@pytest.mark.parametrize("name", CASES)
def test_promise_4_an_optimizer_of_pytorch_is_as_in_its_own_loop_after_200_steps(name: str) -> None:
    descent = CASES[name]
    state, layout = trained(descent)
    expected, average = textbook(descent)
    for place in layout.parameters:
        assert relative(place.view(state.parameters), expected[place.name]) < 1e-9, place.name
        if descent.average.is_kept:
            assert relative(place.view(state.evaluated), average[place.name]) < 1e-9, place.name
    for vector in state.vectors.values():
        assert not any(vector[place.stop : layout.end(place)].any() for place in layout.parameters), "gaps stay 0"


@pytest.mark.parametrize("name", MAKERS)
def test_what_it_keeps_is_loaded_before_every_step_and_changes_no_bit(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        fitted = Torch(MAKERS[name]).fitted(layout_of(Model().to(dtype)))
        assert isinstance(fitted, FittedTorch)
        fitted.check()


def test_a_checkpoint_has_all_that_it_keeps_by_name() -> None:
    state, layout = trained(CASES["nadam"])
    tensors = collect_tensors(layout, state)
    assert {"torch.exp_avg/wide.weight", "torch.exp_avg_sq/seldom.bias", NUMBERS} <= tensors.keys()
    assert (tensors[NUMBERS] == STEPS).sum() == 2, "the counts of the two parameters that every step has moved"
    other = dataclasses.replace(
        state,
        vectors={name: torch.ones_like(vector) for name, vector in state.vectors.items()},
        numbers=torch.ones_like(state.numbers),
    )
    restore(layout, other, tensors)
    for place in layout.parameters:
        for name, vector in state.vectors.items():
            assert torch.equal(place.view(vector), place.view(other.vectors[name]))
    assert torch.equal(state.numbers, other.numbers)
    with pytest.raises(ConfigError, match="checkpoint, torch.exp_inf/wide.weight: expected shape"):
        restore(layout, trained(CASES["adamax"])[0], tensors)


def test_one_worker_has_the_whole_model() -> None:
    layout = layout_of(torch.nn.Sequential(torch.nn.Linear(700, 300), torch.nn.Linear(300, 900)))
    pieces = cut_pieces(Descent(NADAM), layout)
    assert len(pieces) > 4 and not NADAM.counts_updates()
    for workers in (1, 2, 3, 8):
        shares = [take_share(pieces, worker, workers) for worker in range(workers)]
        (block,) = (block for share in shares for block in share)
        assert block.place == slice(0, layout.size)
        assert len({choose_owner(piece, pieces, workers) for piece in pieces}) == 1


KEPT = "expected state of {} that can be saved as tensors and numbers, found {}"
REFUSED: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "closure": (lambda p: optim.LBFGS(p), "optimizer: expected .* no closure, found LBFGS: TypeError: .*; use another"),
    "sparse": (lambda p: optim.SparseAdam(p), "found SparseAdam: RuntimeError: .*dense gradients"),
    "nothing": (lambda _: None, r"optimizer.make: expected a torch.optim.Optimizer, found None; return it"),
    "fails": (lambda p: optim.NAdam(p[99]), "optimizer.make: expected an optimizer, found IndexError: .*; correct"),
    "no rate": (lambda p: optim.NAdam(p, lr=0.0), "optimizer's lr: expected .*, found 0.0"),
    "hides": (lambda p: Hides(p, lr=0.1), KEPT.format("Hides", "other parameters after 6 steps")),
    "draws": (lambda p: Draws(p, lr=0.1), KEPT.format("Draws", "other parameters after 6 steps")),
    "lists": (lambda p: Lists(p, lr=0.1), KEPT.format("Lists", "'history' of wide.weight, of type list")),
    "slows": (lambda p: Slows(p, lr=0.1), "rates that the job's schedule alone changes, found Slows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_step_of_the_run_is_refused_in_a_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as refusal:
        fitted = Torch(make).fitted(layout_of(Model()))
        assert isinstance(fitted, FittedTorch)
        fitted.check()
    assert "\n" not in str(refusal.value)


def test_what_it_begins_to_keep_later_stops_the_run() -> None:
    with pytest.raises(ConfigError, match="'more' of wide.weight, which is not as it was when it was tried"):
        trained(Descent(Torch(lambda p: Late(p, lr=0.1))))


def test_what_does_not_fit_it_is_refused() -> None:
    layout = layout_of(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="optimizer: expected parameters of at least 32 bits for Torch, found .*16"):
        match_rules(Descent(NADAM), layout_of(torch.nn.Linear(2, 2).bfloat16()))
    with pytest.raises(ConfigError, match=r"groups: expected none with st.Torch, found 1; make parameter groups in"):
        match_rules(Descent(NADAM, groups=(Group("*", lr_factor=2.0),)), layout)
    with pytest.raises(ConfigError, match=r"clip.adaptive: expected none with st.Torch, found 0.1; use clip.norm"):
        match_rules(Descent(NADAM, clip=Clip(adaptive=0.1)), layout)
    with pytest.raises(ConfigError, match=r"device: expected cpu with st.Torch, found 'cuda'"):
        Job(Data("unused"), torch.nn.Identity, optimizer=NADAM, device="cuda")
    with pytest.raises(ConfigError, match="optimizer.make: expected a function .*, found 'NAdam'"):
        Torch("NAdam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"optimizer.lr_batch_size: expected none with st.Torch, found 32"):
        Torch(MAKERS["nadam"], lr_batch_size=32)
    assert "torch" not in known_optimizers(), "a command line cannot name what a function makes"
