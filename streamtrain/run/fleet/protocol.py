"""What the controller asks of a run's workers, whoever they are: Ray's actors, or plain objects in a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.track.system import Usage
from streamtrain.values import Loading, Recovery, Risk, Skip, StepTimes, Update

if TYPE_CHECKING:
    import torch

Answer = TypeVar("Answer")


class Measures(Protocol):
    """Who measures risks at the parameters that it has."""

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]], *, by_class: bool = False) -> list[Risk]:
        """Risk on each slice, in the order of ``slices``, whoever computed it; ``by_class`` with counts of classes."""


class Spare(Protocol):
    """Who measures at parameters that it is given, while workers train."""

    def at(self, plan: Plan, parameters: Mapping[str, torch.Tensor], measure: Callable[[Measures], Answer]) -> Answer:
        """What ``measure`` gives at a model's state dict; asked again where the process is lost meanwhile."""

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that it passed over so far, by split and number in the stored order."""

    def give_up(self) -> None:
        """Ends what it is at, whose answer nobody wants any more."""

    def waits_for(self) -> str:
        """What a measurement that is not made yet waits for, in words."""


class Fleet(Measures, Protocol):
    """All workers of a run, as the controller sees them."""

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state."""

    def extend(self, plan: Plan, step: int) -> None:
        """Goes on with a data set that has grown, or with other batch sizes from here on, from global ``step``."""

    def usage(self) -> Usage:
        """What the workers' hosts and GPUs are used for now, by host; of one for each."""

    def loading(self) -> Loading:
        """What reading has cost all workers so far."""

    def times(self) -> StepTimes:
        """What the steps of all workers have been spent on so far."""

    def traces(self) -> list[str | None]:
        """Every worker's Chrome trace of a few steps, as JSON, where it is there."""

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state."""

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones."""

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum."""

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        """New workers in place of all, from a checkpoint's tensors and step, or from the beginning."""

    @property
    def likeness(self) -> Likeness:
        """What the workers have in common."""

    @property
    def workers(self) -> int:
        """How many there are now."""

    def recovered(self) -> list[Recovery]:
        """Every time that the run went on after a loss since this was last asked."""
