"""Risks out of what is measured of each example, slice by slice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch

from streamtrain.aggregate.moments import counted_from, take_joint, take_moments
from streamtrain.job import Value, Weighted
from streamtrain.model.objective.measuring import Measured
from streamtrain.values import Moments, Risk


class Tally:
    """Risks of slices, batch after batch. Plain numbers are looked at once, at the end: after each batch costs more.

    Attributes:
        examples: of all slices.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._risks: list[Risk] = []
        self._plain: tuple[str, ...] = ()
        self._rows: list[torch.Tensor] = []
        self._slices: list[tuple[int, dict[str, Moments | None]]] = []

    def add(self, measured: Mapping[str, Measured], sizes: Sequence[int]) -> None:
        """Slices of so many examples, which lie one behind the other.

        Args:
            measured: of each example, by name; loss and error among it.

        Raises:
            WrongWeight: counted over all examples.
        """
        shape = getattr(measured["loss"], "shape", None)
        plain = {name: it for name, it in measured.items() if isinstance(it, torch.Tensor) and it.shape == shape}
        if tuple(plain) != self._plain:
            self._look()
            self._plain = tuple(plain)
        if plain:
            self._rows.append(torch.stack([each.detach().double() for each in plain.values()]))
        for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
            of_slice: dict[str, Moments | None] = dict.fromkeys(measured if size else ())
            with counted_from(self.examples):
                for name in [name for name in of_slice if name not in plain]:  # in order: which error is told
                    of_slice[name] = _moments(measured[name], start, start + size)
            self._slices.append((size, of_slice))
            self.examples += size

    def put(self, risk: Risk) -> None:
        """The next slice, whose risk is known."""
        self._look()
        self._risks.append(risk)
        self.examples += risk.loss.count

    def risks(self) -> list[Risk]:
        """Of all slices."""
        self._look()
        return self._risks

    def _look(self) -> None:
        """Takes the moments of the plain numbers of which only rows are there."""
        sizes = [size for size, _ in self._slices if size]
        of_plain: list[list[Moments]] = [[] for _ in sizes]
        if self._plain and sizes:
            of_plain = Moments.of_slices(torch.cat(self._rows, dim=1).cpu().numpy(), sizes)
        found = iter(of_plain)
        for size, of_slice in self._slices:
            if not size:
                self._risks.append(Risk(Moments(), Moments()))
                continue
            of_slice |= dict(zip(self._plain, next(found), strict=True))
            moments = {name: each for name, each in of_slice.items() if each is not None}
            self._risks.append(Risk(moments.pop("loss"), moments.pop("error"), moments))
        self._rows, self._slices = [], []


def risk_of(measured: Mapping[str, Measured]) -> Risk:
    """The moments of all that was measured of some examples, loss and error among it.

    Raises:
        WrongWeight: of an example.
    """
    loss = measured["loss"]
    tally = Tally()
    tally.add(measured, [len(loss.sums if isinstance(loss, Weighted) else loss)])
    return tally.risks()[0]


def some_of(values: Value, start: int, stop: int) -> Value:
    """Some examples' values."""
    if isinstance(values, Weighted):
        return Weighted(values.sums[start:stop], values.weights[start:stop])
    return values[start:stop]


def _moments(measured: Measured, start: int, stop: int) -> Moments:
    if isinstance(measured, tuple):
        return take_joint([some_of(each, start, stop) for each in measured])
    return take_moments(some_of(measured, start, stop))
