"""Any optimizer of PyTorch, or of a library that builds on its class, over the mean gradient of the whole minibatch.

It is made anew for every step, and given what the last one has left in the state; so it keeps nothing that is not in
checkpoints, and a step that stops halfway is made again. One worker of a host makes the step of the whole model, since
such an optimizer may look at all parameters together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.optimizers.kept import (
    Kept,
    Parameters,
    cannot_save,
    changed_keys,
    find_kept,
    groups_before,
    parameters_of,
)
from streamtrain.aggregate.state import NUMBERS, PARAMETERS
from streamtrain.aggregate.vector import Layout
from streamtrain.checks import require, require_finite
from streamtrain.errors import ConfigError, complaint
from streamtrain.job.update.optimizer import Optimizer

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
TRIED, CHECKED = 3, 6
"""Steps in which it is found what an optimizer keeps, and in which it is seen that nothing else matters."""


@dataclass(frozen=True)
class Torch(Optimizer):
    """An optimizer of PyTorch, e.g. ``st.Torch(lambda parameters: torch.optim.NAdam(parameters, lr=2e-3))``."""

    make: Make
    """Makes it, given the trainable parameters; called anew for every step, with the same settings each time."""
    lr: float = field(default=1.0, kw_only=True)
    """Factor of the learning rates that the function sets."""

    together: ClassVar[Literal["elements", "parameter", "model"]] = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        do = "e.g. st.Torch(lambda parameters: torch.optim.NAdam(parameters, lr=2e-3))"
        require(callable(self.make), "optimizer.make", "a function that makes an optimizer", self.make, do)
        do = "set the rate that fits the batch size in the function"
        require(self.lr_batch_size is None, "optimizer.lr_batch_size", "none with st.Torch", self.lr_batch_size, do)

    def fitted(self, layout: Layout) -> Optimizer:
        """With what it keeps of the parameters of a model, found by trying it on others of their shapes."""
        return _fit(self, layout)

    def vectors(self) -> tuple[str, ...]:
        """Known only of a model."""
        raise NotImplementedError("Torch.fitted comes first")

    def counts_updates(self) -> bool:
        """It counts by itself."""
        return False

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """Of a model alone."""
        raise NotImplementedError("Torch.fitted comes first")


@dataclass(frozen=True)
class FittedTorch(Torch):
    """The optimizer of a model; its `lr` is the rate of the first group."""

    layout: Layout
    kept: Kept

    def fitted(self, layout: Layout) -> Optimizer:  # noqa: ARG002  # of the contract
        """It is."""
        return self

    def vectors(self) -> tuple[str, ...]:
        """What it keeps in the shape of the parameters."""
        return self.kept.vectors

    def numbers(self) -> int:
        """Everything else that it keeps."""
        return self.kept.size

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """A step of a new one with the old one's state, in the memory of the new state."""
        layout = self.layout
        for name in (PARAMETERS, NUMBERS, *self.vectors()):
            new[name].copy_(old[name])
        parameters = parameters_of(layout, new)
        has_gradient = [True] * len(parameters) if isinstance(updates, int) else (updates >= 0).tolist()
        optimizer = _made(self.make, parameters)
        self.kept.load(optimizer, parameters, layout, new)
        factor = rate / _rates(optimizer)[0]
        for group in optimizer.param_groups:
            group["lr"] = float(group["lr"]) * factor
        for place, parameter, has in zip(layout.parameters, parameters, has_gradient, strict=True):
            parameter.grad = place.view(gradient) if has else None
        before = groups_before(optimizer)
        _step(optimizer)
        for keys, entries in zip(changed_keys(optimizer, before), self.kept.groups, strict=True):
            unknown = sorted(keys - {entry.key for entry in entries})
            if unknown:
                raise cannot_save(optimizer, f"{unknown[0]!r} of a group, which did not change when it was tried")
        for place, parameter in zip(layout.parameters, parameters, strict=True):
            view = place.view(new[PARAMETERS])
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.detach())
        self.kept.leave(optimizer, parameters, layout, new)

    def check(self) -> None:
        """Refuses an optimizer that goes on otherwise when its state was saved and loaded.

        Raises:
            ConfigError: the bits of some steps differ, so it keeps something elsewhere, or draws random numbers.
        """
        layout = self.layout
        going, old, new = (self._blank() for _ in range(3))
        for state in (going, old):
            state[PARAMETERS].copy_(_drawn(layout, 0))
        parameters = parameters_of(layout, going)
        optimizer = _made(self.make, parameters)
        for group in optimizer.param_groups:
            group["lr"] = float(group["lr"]) * (self.lr / _rates(optimizer)[0])
        for step in range(1, CHECKED + 1):
            gradient = _drawn(layout, step)
            has = torch.tensor([0 if step % 3 or n % 2 else -1 for n in range(len(parameters))])
            for place, parameter, flag in zip(layout.parameters, parameters, has.tolist(), strict=True):
                parameter.grad = place.view(gradient).clone() if flag >= 0 else None
            _step(optimizer)
            self.move(self.lr, gradient, old, new, has)
            old, new = new, old
        self.kept.leave(optimizer, parameters, layout, going)
        differs = [name for name in going if not torch.equal(going[name], old[name])]
        if differs:
            raise cannot_save(optimizer, f"other {differs[0]} after {CHECKED} steps when it is loaded before each")

    def _blank(self) -> dict[str, torch.Tensor]:
        layout = self.layout
        names = (PARAMETERS, *self.vectors())
        vectors = {name: torch.zeros(layout.size, dtype=layout.dtype) for name in names}
        return vectors | {NUMBERS: torch.zeros(self.numbers(), dtype=torch.float64)}


@functools.lru_cache(maxsize=8)
def _fit(declared: Torch, layout: Layout) -> FittedTorch:
    """Tries some steps on parameters of the layout's shapes."""
    parameters = parameters_of(layout, {PARAMETERS: _drawn(layout, 0)})
    optimizer = _made(declared.make, parameters)
    first = _rates(optimizer)[0]
    begun = groups_before(optimizer)
    changing: list[set[str]] = [set() for _ in optimizer.param_groups]
    for step in range(1, TRIED + 1):
        gradient = _drawn(layout, step)
        for place, parameter in zip(layout.parameters, parameters, strict=True):
            parameter.grad = place.view(gradient)
        _step(optimizer)
        for keys, found in zip(changing, changed_keys(optimizer, begun), strict=True):
            keys |= found
    if any("lr" in keys for keys in changing):
        expected, do = "rates that the job's schedule alone changes", "use another optimizer"
        kind = f"{type(optimizer).__name__}, which changes its groups' lr"
        raise ConfigError(complaint("optimizer", expected=expected, found=kind, do=do))
    kept = find_kept(optimizer, parameters, layout, changing)
    return FittedTorch(declared.make, lr=declared.lr * first, layout=layout, kept=kept)


def _drawn(layout: Layout, seed: int) -> torch.Tensor:
    """A vector of the layout that stands for parameters or gradients; the gaps are 0."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.zeros(layout.size, dtype=layout.dtype)
    for place in layout.parameters:
        vector[place.start : place.stop].normal_(generator=generator)
    return vector


def _made(make: Make, parameters: Parameters) -> torch.optim.Optimizer:
    try:
        optimizer = make(list(parameters))
    except Exception as error:  # whatever a user's function raises
        found = f"{type(error).__name__}: {_line(error)}"
        do = "correct the function"
        raise ConfigError(complaint("optimizer.make", expected="an optimizer", found=found, do=do)) from error
    do = "return it, e.g. torch.optim.NAdam(parameters, lr=2e-3)"
    require(isinstance(optimizer, torch.optim.Optimizer), "optimizer.make", "a torch.optim.Optimizer", optimizer, do)
    return optimizer


def _rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Of its groups, as the function has set them."""
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    expected, do = "an lr in every group, since the schedule changes it", "use another optimizer"
    complete = len(rates) == len(optimizer.param_groups)
    require(complete, "optimizer", expected, f"{type(optimizer).__name__} without", do)
    require_finite("optimizer's lr", rates[0], positive=True)
    return rates


def _step(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except Exception as error:  # whatever another library raises
        expected = "one whose step() needs nothing but dense gradients, no closure"
        found = f"{type(optimizer).__name__}: {type(error).__name__}: {_line(error)}"
        raise ConfigError(complaint("optimizer", expected=expected, found=found, do="use another")) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
