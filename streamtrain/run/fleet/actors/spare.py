"""A process beside the workers, as a Ray actor: it measures at parameters that it is given, while they train."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from streamtrain.errors import TrainingError, WorkerLost
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.actors.members import gather, kill
from streamtrain.run.fleet.actors.recruiting import actor_class
from streamtrain.run.fleet.cluster.room import GroupBundle, Room
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.run.fleet.processes.measurer import Measurer, measure_alone
from streamtrain.run.fleet.protocol import Answer, Measures
from streamtrain.values import Risk, Skip

if TYPE_CHECKING:
    import torch

MOST_LOSSES = 8
"""Losses in one measurement that end a run."""


class SpareProcess:
    """A `Spare` in Ray's cluster, with the resources of one more worker. Use it as a context: it waits for room.

    Args:
        say: takes a line about what is waited for.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._room = Room(plan, say)
        self._slot: GroupBundle | None = None
        self._likeness: Likeness | None = None
        self._actor: Any = None
        self._ended = False
        self._skipped: dict[tuple[str, int], Skip] = {}

    def __enter__(self) -> SpareProcess:
        try:
            self._slot = self._room.take_one("measurer")
            self._call()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._end()
        self._room.give_back()

    def must_be_like(self, likeness: Likeness) -> None:
        """Looks whether its bits are those of the workers, now and whenever it is called anew.

        Raises:
            ConfigError: they are not, and the job does not allow it.
        """
        self._likeness = likeness
        likeness.check(gather([self._actor.fingerprint.remote()]))

    def at(self, plan: Plan, parameters: Mapping[str, torch.Tensor], measure: Callable[[Measures], Answer]) -> Answer:
        """What ``measure`` gives at a model's state dict; asked again where the process is lost meanwhile.

        Raises:
            WorkerLost: it was given up, or ended. TrainingError: it was lost again and again, or met that itself.
        """
        placed = ray.put(dict(parameters))
        for losses in itertools.count(1):
            try:
                return self._measured(self._actor or self._call(), plan, placed, measure)
            except WorkerLost as lost:
                if self._actor is None or self._ended:  # it was given up: nobody wants it any more
                    raise
                self._end()
                if losses == MOST_LOSSES:
                    raise TrainingError(
                        f"the process beside was lost {losses} times in one measurement ({lost})"
                    ) from None
        raise AssertionError  # the loop has no end of its own

    def _measured(self, actor: Any, plan: Plan, placed: Any, measure: Callable[[Measures], Answer]) -> Answer:
        if plan is not self._plan:
            self._plan = plan
            gather([actor.extend.remote(plan)])
        gather([actor.load.remote(placed)])
        answer = measure(_Asked(actor, plan))
        self._skipped |= gather([actor.skipped.remote()])[0]
        return answer

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over in all measurements so far, by split and number."""
        return dict(self._skipped)

    def give_up(self) -> None:
        """Ends the process, and with it what it is at; a new one is called for the next measurement."""
        self._end()

    def waits_for(self) -> str:
        """The process at its place; or that there is none, where its node is lost and no other has room."""
        places = {} if self._slot is None else self._room.places({0: self._slot})
        if places:
            return f"a process on {places[0].address}"
        return f"a process that has no place: its node is lost, and no other has room for {self._room.one('measurer')}"

    def _call(self) -> Any:
        """A new process, whose bits must be those of the workers, as far as these are known.

        Raises:
            ConfigError: they are not.
        """
        assert self._slot is not None
        self._actor = actor_class(self._plan.job, Measurer, self._slot).remote(self._plan)
        if self._likeness is not None:
            self._likeness.check(gather([self._actor.fingerprint.remote()]))
        return self._actor

    def _end(self) -> None:
        kill([] if self._actor is None else [self._actor])
        self._actor = None


class _Asked:
    """The actor, as who measures."""

    def __init__(self, actor: Any, plan: Plan) -> None:
        self._actor = actor
        self._plan = plan

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]], *, by_class: bool = False) -> list[Risk]:
        """Risk on each slice."""
        return measure_alone(self._plan, self._ask, split, slices, by_class=by_class)

    def _ask(self, split: str, batches: Sequence[Sequence[tuple[int, int]]], *, by_class: bool) -> list[list[Risk]]:
        found: list[list[Risk]] = gather([self._actor.evaluate.remote(split, batches, by_class=by_class)])[0]
        return found
