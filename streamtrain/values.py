"""What crosses a door between two stations: small frozen values, nothing that acts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamtrain.samples import Moments as Moments
from streamtrain.samples import merged_moments as merged_moments
from streamtrain.stored import Stored

Arrays = dict[str, NDArray[np.generic]]
"""Fields of a batch of examples: name -> array whose first axis is the example, or a row that several share."""


def examples_in(batch: Mapping[str, Any]) -> int:
    """Examples of a batch, of arrays or tensors: those that share rows are never fewer than these."""
    return max(map(len, batch.values()), default=0)


class Selection(NamedTuple):
    """Examples of the stored order, in the order in which they are used, and the pass that uses them.

    ``runs``: ``(start, stop)``, one after the other; ``numbers``: one by one, in place of runs where they lie apart.
    ``passes``: each example's own, beside ``numbers``, where parts of the data set have passes of their own.
    A tuple, since one is made for every minibatch: a dataclass takes three times as long.
    """

    pass_index: int
    runs: tuple[tuple[int, int], ...] = ()
    numbers: NDArray[np.int64] | None = None
    passes: NDArray[np.int64] | None = None

    def each(self) -> NDArray[np.int64]:
        """The stored number of every example."""
        if self.numbers is not None:
            return self.numbers
        runs = [np.arange(start, stop, dtype=np.int64) for start, stop in self.runs]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)


@dataclass(frozen=True, order=True)
class Position:
    """Where a run is: ``step`` minibatches of pass ``pass_index`` are in the parameters. Both from 0."""

    pass_index: int
    step: int


@dataclass(frozen=True)
class Lane:
    """A logical worker: the contiguous range ``[start, stop)`` of the stored order."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class LanePart:
    """The examples ``[start, stop)`` of the stored order that one lane gives to one minibatch."""

    lane: int
    start: int
    stop: int

    @property
    def examples(self) -> int:
        """How many they are."""
        return self.stop - self.start


@dataclass(frozen=True)
class Minibatch:
    """The examples of one update, by number: ``parts[l]`` comes from lane ``l`` and may be empty."""

    position: Position
    parts: tuple[LanePart, ...]

    @property
    def examples(self) -> int:
        """How many they are."""
        return sum(part.examples for part in self.parts)

    @property
    def smallest_part(self) -> int:
        """Examples of the smallest part that is not empty."""
        return min(part.examples for part in self.parts if part.examples)


def known(value: float) -> float | None:
    """A number for JSON, which has none that is not finite: ``None`` in its place."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class LayerNorms(Stored):
    """Squared Euclidean norms of one parameter tensor in one step.

    ``gradient`` is the mean gradient's before clipping, ``parameters`` the tensor's before the update, ``update``
    that of its change.
    """

    gradient: float
    parameters: float
    update: float


@dataclass(frozen=True)
class Norms(Stored):
    """Squared Euclidean norms of one step.

    ``lanes`` has for each lane with examples their number, or what they weigh in examples of average weight, and the
    squared norm of their mean gradient.
    ``layers`` goes by the parameter tensors' names, in the model's order.
    """

    lanes: tuple[tuple[float, float], ...]
    layers: dict[str, LayerNorms]

    @property
    def whole(self) -> float:
        """Of the whole mean gradient."""
        return self.total.gradient

    @property
    def total(self) -> LayerNorms:
        """Of all parameters together."""
        layers = self.layers.values()
        return LayerNorms(
            math.fsum(layer.gradient for layer in layers),
            math.fsum(layer.parameters for layer in layers),
            math.fsum(layer.update for layer in layers),
        )


@dataclass(frozen=True)
class OwnNorms(Stored):
    """Squared norms of a step in the optimizer's own norm: ``lanes`` as in `Norms`, and the whole mean gradient's."""

    lanes: tuple[tuple[float, float], ...]
    whole: float


@dataclass(frozen=True)
class Update(Stored):
    """One step that happened: what went in and how large it was.

    ``step`` is the global step, from 0. ``loss`` and ``error`` are over the minibatch at the
    parameters before the update. ``gradient_norm`` is before clipping by norm; ``clip_scale`` is the
    factor that clipping by norm applied, 1 where it did nothing. ``skipped``: the gradient or the loss
    was not finite, and the parameters stayed as they were. ``staleness``: updates that were missing
    from the parameters at which the gradient was computed, mean over the lanes; 0 but with `Stale`. ``loss_scale``:
    what losses were multiplied by, 0 where they are not; ``overflowed``: skipped since it was too large. ``late``: the
    parts, as (step, lane), that it did not wait for; none but with backup lanes.
    ``norms`` and ``own`` are there at some steps only, and not at skipped ones.
    """

    step: int
    loss: Moments
    error: Moments
    learning_rate: float
    gradient_norm: float
    clip_scale: float
    skipped: bool = False
    staleness: float = 0.0
    late: tuple[tuple[int, int], ...] = ()
    loss_scale: float = 0.0
    overflowed: bool = False
    norms: Norms | None = None
    own: OwnNorms | None = None


@dataclass(frozen=True)
class Risk(Stored):
    """Mean loss, mean error and means of further metrics on a set of examples, all at the same parameters."""

    loss: Moments
    error: Moments
    metrics: dict[str, Moments] = field(default_factory=dict)

    @property
    def quantities(self) -> dict[str, Moments]:
        """All of them by name."""
        return {"loss": self.loss, "error": self.error, **self.metrics}

    def mapped(self, change: Callable[[str, Moments], Moments]) -> Risk:
        """Each quantity changed, by its name."""
        metrics = {name: change(name, each) for name, each in self.metrics.items()}
        return Risk(change("loss", self.loss), change("error", self.error), metrics)

    def out_of(self, population: int) -> Risk:
        """The same, known to be drawn out of so many examples, whose mean it estimates."""
        return self.mapped(lambda _, each: replace(each, population=population))


@dataclass(frozen=True)
class SliceRisk(Risk):
    """The risk on a slice, and by name what metrics of the whole set took of it: to be merged, never stored."""

    states: dict[str, Any] = field(default_factory=dict, repr=False)


def _sums(one: Loading | StepTimes, other: Loading | StepTimes) -> Iterator[Any]:
    """Of each field of two values of one class."""
    return (mine + its for mine, its in zip(astuple(one), astuple(other), strict=True))


@dataclass(frozen=True)
class Loading:
    """What reading has cost and met so far, over one process or many.

    ``waited`` is the seconds that workers stood still for their examples; ``bytes_read`` is of the examples as they
    lie in the shards; ``skipped`` counts bad examples that were passed over; the rest is of fetched shards.
    """

    waited: float = 0.0
    bytes_read: int = 0
    skipped: int = 0
    bytes_fetched: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    retries: int = 0

    def __add__(self, other: Loading) -> Loading:
        return Loading(*_sums(self, other))


@dataclass(frozen=True)
class StepTimes:
    """Seconds that ``steps`` steps have taken so far, by what they were spent on; over one worker or many.

    ``waiting`` for examples, ``computing`` gradients, ``exchanging`` them (adding up, and waiting for the others),
    ``updating`` (clipping and the optimizer). ``ahead`` is the number of batches that streamers hold ready just now.
    """

    steps: int = 0
    waiting: float = 0.0
    computing: float = 0.0
    exchanging: float = 0.0
    updating: float = 0.0
    ahead: int = 0

    def __add__(self, other: StepTimes) -> StepTimes:
        return StepTimes(*_sums(self, other))


@dataclass(frozen=True)
class Skip(Stored):
    """A bad example that was passed over: where it is, and why."""

    example: str
    reason: str


@dataclass(frozen=True)
class Recovery:
    """A run that went on after a loss: at which step, how many seconds after its last update, by how many workers."""

    step: int
    seconds: float
    workers: int
    lost: str = ""


@dataclass(frozen=True)
class Fingerprint(Stored):
    """What chooses the kernels of a worker's process, by name, and the host that it runs on."""

    host: str
    facts: dict[str, str]

    def differences(self, other: Fingerprint) -> list[str]:
        """What ``other`` has otherwise, each with both hosts; empty where the same bits can be expected."""
        hosts = (self.host, other.host) if self.host != other.host else (self.host, f"another process of {other.host}")
        return [
            f"{name} {mine} on {hosts[0]} and {theirs} on {hosts[1]}"
            for name in {**self.facts, **other.facts}
            for mine, theirs in [_only(self.facts.get(name, "unknown"), other.facts.get(name, "unknown"))]
            if mine != theirs
        ]


def _only(one: str, other: str) -> tuple[str, str]:
    """Two values; of two lists of words, which words only one has."""
    if one == other or not (" " in one and " " in other):
        return one, other
    mine = one.split()
    theirs = other.split()
    left = [[word for word in words if word not in rest] for words, rest in ((mine, theirs), (theirs, mine))]
    return " ".join(left[0]) or "no more", " ".join(left[1]) or "no more"


@dataclass(frozen=True)
class Reading:
    """One point of one curve: ``name`` at global ``step``, at ``time`` (Unix seconds)."""

    name: str
    value: float
    step: int
    time: float
