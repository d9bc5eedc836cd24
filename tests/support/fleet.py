"""All workers of a run without Ray: plain workers as a `Fleet`, one in this process."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from streamtrain.job import Job
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.inline import InlineFleet
from streamtrain.run.fleet.processes.measurer import Measurer, measure_alone
from streamtrain.run.fleet.protocol import Answer, Measures, Spare
from streamtrain.run.outcome.result import Result
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker, Tracker
from streamtrain.values import Reading, Risk, Skip, Update


class PlainFleet(InlineFleet):
    """One plain worker in this process, and a note of every update."""

    def __init__(self, plans: Plan) -> None:
        super().__init__(plans, say=print)
        self.plans = plans
        self.updates: list[Update] = []

    def advance(self, step: int) -> list[Update]:
        done = super().advance(step)
        self.updates += done
        return done


class PlainSpare:
    """A plain measurer in this process, which the controller's thread calls.

    Args:
        gate: is waited for before each measurement, while training goes on.
    """

    def __init__(self, plans: Plan, gate: Callable[[], object] = lambda: None) -> None:
        self._plans = plans
        self._measurer = Measurer(plans)
        self._gate = gate

    def at(self, plan: Plan, parameters: Mapping[str, torch.Tensor], measure: Callable[[Measures], Answer]) -> Answer:
        if plan is not self._plans:
            self._measurer.extend(plan)
        self._gate()
        self._measurer.load(parameters)
        return measure(_Asked(plan, self._measurer))

    def skipped(self) -> dict[tuple[str, int], Skip]:
        return self._measurer.skipped()

    def give_up(self) -> None:
        pass

    def waits_for(self) -> str:
        return "a plain measurer"


class _Asked:
    """The measurer, as who measures."""

    def __init__(self, plan: Plan, measurer: Measurer) -> None:
        self._plan, self._measurer = plan, measurer

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]], *, by_class: bool = False) -> list[Risk]:
        return measure_alone(self._plan, self._measurer.evaluate, split, slices, by_class=by_class)


class Notebook(NoTracker):
    """A tracker that keeps its readings."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def log(self, readings: Sequence[Reading]) -> None:
        self.readings += readings

    def named(self, name: str) -> list[tuple[int, float]]:
        return [(r.step, r.value) for r in self.readings if r.name == name]


def run(
    job: Job,
    folder: Path,
    tracker: Tracker | None = None,
    keeper: Keeper | None = None,
    *,
    quiet: bool = True,
    spare: Spare | None = None,
) -> tuple[Result, PlainFleet]:
    """Trains a job of one worker in this process."""
    plans = plan(job)
    fleet, keeper = PlainFleet(plans), keeper or Keeper(job, {})
    if keeper.start is not None:
        fleet.restart(keeper.start)
    return Controller(
        plans, fleet, tracker or NoTracker(), Terminal(quiet=quiet), folder, keeper, spare=spare
    ).run(), fleet
