"""What an optimizer of PyTorch keeps from one step to the next, found by trying it, as flat tensors and back.

A tensor of a parameter's shape and type is a part of a vector. Everything else that it keeps, of each parameter and in
its groups (counts of steps, products of decays, sums over rows), is float64 numbers, one after the other. What is
neither is refused, as is whatever appears, goes or changes only later: nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streamtrain.aggregate.state import NUMBERS, PARAMETERS
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import ConfigError, complaint

Parameters = Sequence[torch.nn.Parameter]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """Something that the optimizer keeps.

    Attributes:
        key: in the state of a parameter, or in a group.
        start, stop: its place among the numbers; both 0 for a part of a vector, and for what never changes.
        form: a tensor's shape and type; the class of a number; ``None`` for what never changes.
        constant: what never changes.
    """

    key: str
    start: int = 0
    stop: int = 0
    form: tuple[tuple[int, ...], torch.dtype] | type | None = None
    constant: str | None = None

    @property
    def is_vector(self) -> bool:
        """Whether it is a part of a vector."""
        return isinstance(self.form, tuple) and not self.stop

    def fits(self, value: Any) -> bool:
        """Whether a value is of its form."""
        if isinstance(self.form, tuple):
            return isinstance(value, torch.Tensor) and (tuple(value.shape), value.dtype) == self.form
        return type(value) is self.form if self.form is not None else value == self.constant

    def read(self, numbers: torch.Tensor) -> Any:
        """The value among the numbers."""
        found = numbers[self.start : self.stop]
        if isinstance(self.form, tuple):
            shape, dtype = self.form
            return found.to(dtype, copy=True).view(shape)
        return self.constant if self.form is None else self.form(found.item())

    def write(self, value: Any, numbers: torch.Tensor) -> None:
        """Puts a value among the numbers."""
        if isinstance(value, torch.Tensor):
            numbers[self.start : self.stop] = value.detach().flatten()
        elif self.form is not None:
            numbers[self.start] = value


@dataclass(frozen=True)
class Kept:
    """All that an optimizer keeps.

    Attributes:
        parameters: of every parameter, in the layout's order; none where the optimizer does not move it.
        groups: of every group, what changes there.
        size: how many numbers there are. The first ones, one a parameter, say whether it has a state yet, and the next
            one whether there was a step.
    """

    parameters: tuple[tuple[Entry, ...], ...]
    groups: tuple[tuple[Entry, ...], ...]
    size: int

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the vectors, which never are those of another part of a state."""
        found = (entry.key for entries in self.parameters for entry in entries if entry.is_vector)
        return tuple(dict.fromkeys(map(vector_name, found)))

    def load(self, optimizer: torch.optim.Optimizer, own: Parameters, layout: Layout, state: Tensors) -> None:
        """Gives a new optimizer what another has left; its tensors of a parameter's shape are views of the vectors."""
        numbers = state[NUMBERS]
        for n, (place, parameter, entries) in enumerate(zip(layout.parameters, own, self.parameters, strict=True)):
            if numbers[n]:
                optimizer.state[parameter] = {
                    entry.key: place.view(state[vector_name(entry.key)]) if entry.is_vector else entry.read(numbers)
                    for entry in entries
                }
        if numbers[len(self.parameters)]:
            for group, entries in zip(optimizer.param_groups, self.groups, strict=True):
                group |= {entry.key: entry.read(numbers) for entry in entries}

    def leave(self, optimizer: torch.optim.Optimizer, own: Parameters, layout: Layout, state: Tensors) -> None:
        """Writes what an optimizer keeps after a step.

        Raises:
            ConfigError: something else than when it was tried.
        """
        numbers = state[NUMBERS]
        check_owners(optimizer, own)
        for n, (place, parameter, entries) in enumerate(zip(layout.parameters, own, self.parameters, strict=True)):
            found = optimizer.state.get(parameter) or {}
            if not found:
                continue
            numbers[n] = 1.0
            _check_entries(optimizer, place.name, entries, found)
            for entry in entries:
                value = found[entry.key]
                if not entry.is_vector:
                    entry.write(value, numbers)
                    continue
                view = place.view(state[vector_name(entry.key)])
                if value.data_ptr() != view.data_ptr():
                    view.copy_(value.detach())
        numbers[len(self.parameters)] = 1.0
        for group, entries in zip(optimizer.param_groups, self.groups, strict=True):
            for entry in entries:
                entry.write(group[entry.key], numbers)


def vector_name(key: str) -> str:
    """Of the vector for what a parameter's state has under a key."""
    return f"torch.{key}"


def find_kept(
    optimizer: torch.optim.Optimizer, own: Parameters, layout: Layout, changing: Sequence[Iterable[str]]
) -> Kept:
    """What an optimizer keeps, by what it has after some steps.

    Args:
        own: all parameters, in the layout's order.
        changing: of every group, the keys under which it has changed something.

    Raises:
        ConfigError: naming what can be saved neither as a tensor nor as a number.
    """
    check_owners(optimizer, own)
    size = len(own) + 1
    parameters = []
    for place, parameter in zip(layout.parameters, own, strict=True):
        entries, size = _entries(optimizer, place.name, optimizer.state.get(parameter) or {}, size, parameter)
        parameters.append(entries)
    groups = []
    for n, (group, keys) in enumerate(zip(optimizer.param_groups, changing, strict=True)):
        entries, size = _entries(optimizer, f"group {n}", {key: group[key] for key in sorted(keys)}, size)
        groups.append(entries)
    return Kept(tuple(parameters), tuple(groups), size)


def check_owners(optimizer: torch.optim.Optimizer, own: Parameters) -> None:
    """Refuses a state that is of no parameter."""
    known = set(map(id, own))
    for owner in optimizer.state:
        if id(owner) not in known:
            raise cannot_save(optimizer, f"a state of {type(owner).__name__}, which is no parameter")


def cannot_save(optimizer: torch.optim.Optimizer, found: str) -> ConfigError:
    """The refusal of an optimizer by what it keeps."""
    name = type(optimizer).__name__
    expected = f"state of {name} that can be saved as tensors and numbers"
    return ConfigError(complaint("optimizer", expected=expected, found=found, do="use another optimizer"))


def groups_before(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups' settings as they are now."""
    return [
        {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in group.items()}
        for group in optimizer.param_groups
    ]


def changed_keys(optimizer: torch.optim.Optimizer, before: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """Of every group, the keys whose values are not what they were."""
    return [
        {key for key in group.keys() | old.keys() if key != "params" and not _same(group.get(key), old.get(key))}
        for group, old in zip(optimizer.param_groups, before, strict=True)
    ]


def _entries(
    optimizer: torch.optim.Optimizer, owner: str, found: Mapping[str, Any], size: int, like: torch.Tensor | None = None
) -> tuple[tuple[Entry, ...], int]:
    entries = []
    for key, value in found.items():
        if not isinstance(key, str):
            raise cannot_save(optimizer, f"a key {key!r} of {owner}")
        if isinstance(value, torch.Tensor) and not value.is_complex():
            form = tuple(value.shape), value.dtype
            if like is not None and like.dim() and form == (tuple(like.shape), like.dtype):
                entries.append(Entry(key, form=form))
                continue
            entries.append(Entry(key, size, size + value.numel(), form))
            size += value.numel()
        elif isinstance(value, int | float):
            entries.append(Entry(key, size, size + 1, type(value)))
            size += 1
        elif value is None or isinstance(value, str):
            entries.append(Entry(key, constant=value))
        else:
            raise cannot_save(optimizer, f"{key!r} of {owner}, of type {type(value).__name__}")
    return tuple(entries), size


def _check_entries(
    optimizer: torch.optim.Optimizer, owner: str, entries: Sequence[Entry], found: Mapping[str, Any]
) -> None:
    known = {entry.key: entry for entry in entries}
    for key in _either(known, found):
        if key not in known or key not in found or not known[key].fits(found[key]):
            raise cannot_save(optimizer, f"{key!r} of {owner}, which is not as it was when it was tried")


def _either(*maps: Mapping[str, Any]) -> Iterator[str]:
    yield from dict.fromkeys(key for each in maps for key in each)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def parameters_of(layout: Layout, state: Tensors) -> list[torch.nn.Parameter]:
    """Parameters that are views of a state's."""
    return [torch.nn.Parameter(place.view(state[PARAMETERS])) for place in layout.parameters]
