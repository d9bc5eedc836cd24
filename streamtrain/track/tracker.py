"""The contract between a run and where its numbers go. No call waits for a server or raises because of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class ProgramCard:
    """A trained model as a program that runs without its job.

    ``inputs``: an example as it is called with, by the names of fields, first axis the example; bytes and texts are
    objects. ``outputs``: what it gives for it, by name, the empty one of a single output. ``save`` writes its files
    into a folder and returns each by what it is: ``program``, ``card`` and perhaps ``functions``. ``any_size``: those
    inputs and outputs whose other axes than the first may have other sizes too. ``notes``: what its user has to know.
    """

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]
    save: Callable[[Path], Mapping[str, Path]]
    any_size: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """A trained model on the CPU, with a few inputs as it is called with, and its output for them.

    ``output`` is ``None`` where it is not one array. ``register``: the name under which the model is registered.
    ``step``: updates in its parameters. ``any_size``: it takes inputs of other sizes too. ``program``: the same model
    without its job, where it can be. ``needs``: what pip has to install for it.
    """

    model: torch.nn.Module
    inputs: tuple[np.ndarray[Any, Any], ...]
    output: np.ndarray[Any, Any] | None
    register: str | None = None
    step: int = 0
    any_size: bool = False
    program: ProgramCard | None = None
    needs: tuple[str, ...] = ()


class Tracker(Protocol):
    """Where the numbers of a run go: what `st.train(job, tracker=...)` takes in place of MLflow.

    Any class with these methods is one; it need not inherit from this. `begin` is called once and first, `finish` once
    and last, also where the run fails; between them the others, in any order and number. Calls come from the thread
    that trains (where SIGTERM took all workers too, `finish` comes from another): a call that waits for a server keeps
    every worker waiting, so hand over and return. What a call raises ends the run: catch what a server does.

    A `Reading` is one point: ``name`` (``prefix/quantity``; `streamtrain/track/README.md` lists them), ``value`` (a
    float, perhaps NaN or infinite), ``step`` (from 0; of passes from 1), ``time`` (Unix seconds). The points of one
    curve come in order of their steps, but for a run that begins again from a checkpoint: it measures the steps since
    then once more, with the same values. Keep the first point of a step.
    """

    @property
    def run_id(self) -> str | None:
        """The server's name of the run, once the server has answered; ``None`` where there is no such name.

        It is kept in checkpoints, and given to `begin` when the run is resumed.
        """

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Opens the run.

        Args:
            card: its name, settings, tags and data sets.
            folder: the run's own; it exists, and a tracker may write files of its own into it. One that was written
                to before is that of a run that is resumed: this continues it.
            run_id: what the property of that name was, of a run that is resumed.
        """

    def log(self, readings: Sequence[Reading]) -> None:
        """Takes points of curves: some dozens, about once a second."""

    def artifact(self, file: Path, place: str) -> None:
        """Takes a file in the run's folder, to be kept under ``place``; it stays as it is until `finish` returns."""

    def tag(self, name: str, value: str) -> None:
        """Takes a fact about the run, to be searched for; a later value of a name replaces the one before."""

    def describe(self, markdown: str) -> None:
        """Takes what the run's page shall say about it."""

    def model(self, card: ModelCard) -> None:
        """Takes the trained model, for the server's users to find."""

    def finish(self, status: Status, note: str) -> str | None:
        """Closes the run; waits a bounded time for what is not delivered yet.

        Args:
            status: how it ended. note: why, in words.

        Returns:
            One line that says what stayed behind and where; ``None`` where everything was delivered.
        """


class Trackers:
    """A tracker, and others that take the same points; only the first takes all the rest.

    Args:
        taken: hears of all points first, and returns those that trackers are to have.
    """

    def __init__(
        self,
        first: Tracker,
        *others: Tracker,
        taken: Callable[[Sequence[Reading]], Sequence[Reading]] = lambda readings: readings,
    ) -> None:
        self._first = first
        self._others = others
        self._taken = taken

    @property
    def run_id(self) -> str | None:
        """The first one's."""
        return self._first.run_id

    def log(self, readings: Sequence[Reading]) -> None:
        """Hands the points to every tracker, in order."""
        left = self._taken(readings)
        for each in (self._first, *self._others):
            each.log(left)

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Opens the run with the first."""
        self._first.begin(card, folder, run_id)

    def artifact(self, file: Path, place: str) -> None:
        """Hands the file to the first."""
        self._first.artifact(file, place)

    def tag(self, name: str, value: str) -> None:
        """Hands the fact to the first."""
        self._first.tag(name, value)

    def describe(self, markdown: str) -> None:
        """Hands the description to the first."""
        self._first.describe(markdown)

    def model(self, card: ModelCard) -> None:
        """Hands the model to the first."""
        self._first.model(card)

    def finish(self, status: Status, note: str) -> str | None:
        """Closes the run with the first, and returns its line."""
        return self._first.finish(status, note)


class NoTracker:
    """Takes everything and keeps nothing: tracking that is switched off, and a base for trackers of a few calls."""

    run_id: str | None = None

    def begin(self, card: RunCard, folder: Path, run_id: str | None = None) -> None:
        """Does nothing."""

    def log(self, readings: Sequence[Reading]) -> None:
        """Does nothing."""

    def artifact(self, file: Path, place: str) -> None:
        """Does nothing."""

    def tag(self, name: str, value: str) -> None:
        """Does nothing."""

    def describe(self, markdown: str) -> None:
        """Does nothing."""

    def model(self, card: ModelCard) -> None:
        """Does nothing."""

    def finish(self, status: Status, note: str) -> str | None:
        """Does nothing."""
        return None
