"""The contract between a run and where its numbers go. No call waits for a server or raises because of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from streamtrain.values import Reading

if TYPE_CHECKING:
    import numpy as np
    import torch

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class DatasetCard:
    """One split that a run uses: ``digest`` names its content, ``fields`` is name -> type and shape."""

    name: str
    digest: str
    source: str
    context: Literal["training", "validation", "testing"]
    examples: int
    fields: Mapping[str, str]


@dataclass(frozen=True)
class RunCard:
    """What is known about a run before its first step. ``parent``: the name or id of a run that it belongs under."""

    name: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: tuple[DatasetCard, ...]
    parent: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """A trained model on the CPU, with a few inputs as it is called with, and its output for them.

    ``output`` is ``None`` where it is not one array. ``register``: the name under which the model is registered.
    ``step``: updates in its parameters.
    """

    model: torch.nn.Module
    inputs: tuple[np.ndarray[Any, Any], ...]
    output: np.ndarray[Any, Any] | None
    register: str | None = None
    step: int = 0


class Tracker(Protocol):
    """See the module. ``begin`` comes first, ``finish`` last."""

    @property
    def run_id(self) -> str | None:
        """The server's name of the run, once the server has answered."""

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Opens the run; ``folder`` is the run's own and exists.

        A folder that holds a journal already continues that run. So does ``run_id``, the server's name of an
        earlier run, where the folder is a new one. Points at steps that a curve has already are then dropped.
        """

    def log(self, readings: Sequence[Reading]) -> None:
        """Points of curves."""

    def artifact(self, file: Path, place: str) -> None:
        """A file in the run's folder to keep under ``place``; it must stay as it is until ``finish`` returns."""

    def tag(self, name: str, value: str) -> None:
        """A fact about the run, to be searched for."""

    def describe(self, markdown: str) -> None:
        """What the run's page says about it."""

    def model(self, card: ModelCard) -> None:
        """The run's model, to be found by the server's users."""

    def finish(self, status: Status, note: str) -> str | None:
        """Closes the run; waits a bounded time for what is not delivered yet.

        Returns:
            One line that says what stayed behind and where, or ``None``.
        """


class Trackers:
    """Several that are told the same points; the first has all the rest."""

    def __init__(self, first: Tracker, *others: Tracker) -> None:
        self._first, self._others = first, others

    @property
    def run_id(self) -> str | None:
        """See `Tracker`."""
        return self._first.run_id

    def log(self, readings: Sequence[Reading]) -> None:
        """See `Tracker`."""
        for each in (self._first, *self._others):
            each.log(readings)

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """See `Tracker`."""
        self._first.begin(card, folder, run_id)

    def artifact(self, file: Path, place: str) -> None:
        """See `Tracker`."""
        self._first.artifact(file, place)

    def tag(self, name: str, value: str) -> None:
        """See `Tracker`."""
        self._first.tag(name, value)

    def describe(self, markdown: str) -> None:
        """See `Tracker`."""
        self._first.describe(markdown)

    def model(self, card: ModelCard) -> None:
        """See `Tracker`."""
        self._first.model(card)

    def finish(self, status: Status, note: str) -> str | None:
        """See `Tracker`."""
        return self._first.finish(status, note)


class NoTracker:
    """Tracking switched off."""

    run_id: str | None = None

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Nothing."""

    def log(self, readings: Sequence[Reading]) -> None:
        """Nothing."""

    def artifact(self, file: Path, place: str) -> None:
        """Nothing."""

    def tag(self, name: str, value: str) -> None:
        """Nothing."""

    def describe(self, markdown: str) -> None:
        """Nothing."""

    def model(self, card: ModelCard) -> None:
        """Nothing."""

    def finish(self, status: Status, note: str) -> str | None:
        """Nothing."""
        return None
