"""Sums of autograd's gradients, which may be none, sparse or expanded; into slots, while backward makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from streamtrain.aggregate.state import DeviceSlot, Slot

Views = Sequence[torch.Tensor]


class LaneGradients:
    """Takes lanes' gradients into their slots, parameter by parameter; never changes autograd's tensors.

    Args:
        parameters: the model's, in the layout's order.
        views_of: every parameter's view of a vector.
        early: whether to take each gradient as soon as backward has made it, and to let go of it then, by hooks on the
            parameters: so those of all of them are never there at once. What a hook is given is the whole sum over the
            lane's examples.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], views_of: Callable[[torch.Tensor], Views], *, early: bool
    ) -> None:
        self._views_of = views_of
        self._kept: list[torch.Tensor | None] = [None] * len(parameters)
        self._taken = [False] * len(parameters)
        self._early = early
        self._is_open = False
        # in place of those that were taken, so that autograd holds nothing of their size
        self._placeholders = [torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape) for p in parameters]
        for index, parameter in enumerate(parameters if early else ()):
            parameter.register_hook(partial(self._note, index))  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def taking(self, slot: Slot | DeviceSlot) -> Iterator[None]:
        """What backward makes inside is the whole gradient of the slot's lane; `leave` comes next."""
        self._aim(slot)
        self._is_open = self._early and slot.early
        try:
            yield
        finally:
            self._is_open = False

    def leave(self, slot: Slot | DeviceSlot, gradients: Sequence[torch.Tensor | None]) -> None:
        """Brings all that was not taken into the slot; ``None`` is a gradient of zeros."""
        if not any(self._taken):
            self._aim(slot)
        for index, (gradient, taken) in enumerate(zip(gradients, self._taken, strict=True)):
            if not taken:
                self._take(index, gradient)
        self._taken = [False] * len(self._taken)

    def _aim(self, slot: Slot | DeviceSlot) -> None:
        self._slot = slot
        self._views = self._views_of(slot.gradient)
        self._lefts = [self._views_of(vector) for vector in slot.lefts]
        self._taken = [False] * len(self._taken)

    def _note(self, index: int, gradient: torch.Tensor) -> torch.Tensor | None:
        if not self._is_open:
            return None
        self._take(index, densify(gradient))
        self._taken[index] = True
        return self._placeholders[index] if gradient.layout == torch.strided else None

    def _take(self, index: int, gradient: torch.Tensor | None) -> None:
        if self._slot.waits:
            self._kept[index] = gradient
            return
        view = self._views[index]
        parts: list[torch.Tensor | None] = [views[index] for views in self._lefts]
        if self._slot.adds:
            parts.insert(0, self._kept[index])
            self._kept[index] = None
        if not parts:
            view.zero_() if gradient is None else view.copy_(gradient)
            return
        *inner, last = parts
        for part in inner:
            gradient = _add(part, gradient)
        _add(last, gradient, view)


def densify(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient as slots take it: that of an embedding may be sparse."""
    return gradient if gradient is None or gradient.layout == torch.strided else gradient.to_dense()


def add_up(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Sum of two gradients; ``None`` is none. Not in place: autograd may give expanded tensors."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _add(one: torch.Tensor | None, other: torch.Tensor | None, out: torch.Tensor | None = None) -> torch.Tensor | None:
    """Sum of two gradients, in ``out`` where there is one; ``None`` is zeros, so no -0 is left."""
    if one is not None and other is not None:
        return torch.add(one, other, out=out)
    given = other if one is None else one
    if given is None:
        return None if out is None else out.zero_()
    return torch.add(given, 0.0, out=out)
