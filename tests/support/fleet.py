"""All workers of a run without Ray: plain workers as a `Fleet`, one in this process."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from streamtrain.aggregate.exchange.join import Seat
from streamtrain.job import Job
from streamtrain.order import hosting_of
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.run.outcome.result import Result
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker, Tracker
from streamtrain.values import Loading, Reading, Recovery, Risk, Skip, StepTimes, Update


class PlainFleet:
    """One plain worker, and a note of every call."""

    def __init__(self, plans: Plan) -> None:
        self.plans, self.workers = plans, 1
        self.updates: list[Update] = []
        self.likeness = Likeness(plans.job, None, print)
        self.restart(None)

    def advance(self, step: int) -> list[Update]:
        done = self.worker.advance(step)
        self.updates += done
        return done

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        return self.worker.evaluate(split, slices)

    def extend(self, plan: Plan, step: int) -> None:
        assert step == self.worker._exchange.step
        self.worker.extend(plan, None)

    def loading(self) -> Loading:
        return self.worker.loading()

    def traces(self) -> list[str | None]:
        return [self.worker.trace()]

    def times(self) -> StepTimes:
        return self.worker.times()

    def skipped(self) -> dict[tuple[str, int], Skip]:
        return self.worker.skipped()

    def snapshot(self) -> dict[str, torch.Tensor]:
        return self.worker.snapshot()

    def distance(self) -> float:
        return self.worker.distance()

    def save(self) -> dict[str, torch.Tensor]:
        return self.worker.save()

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        self.worker = Worker(self.plans, start)
        self.likeness.check([self.worker.fingerprint()])
        step = 0 if start is None else start[1]
        meeting = self.worker.offer_memory(step)
        self.worker.join(Seat(0, hosting_of(self.plans.order.lanes, 1), step, meeting, {0: os.getpid()}))

    def recovered(self) -> list[Recovery]:
        return []

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        self.worker.restore(parameters)


class Notebook(NoTracker):
    """A tracker that keeps its readings."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def log(self, readings: Sequence[Reading]) -> None:
        self.readings += readings

    def named(self, name: str) -> list[tuple[int, float]]:
        return [(r.step, r.value) for r in self.readings if r.name == name]


def run(
    job: Job, folder: Path, tracker: Tracker | None = None, keeper: Keeper | None = None, *, quiet: bool = True
) -> tuple[Result, PlainFleet]:
    """Trains a job of one worker in this process."""
    plans = plan(job)
    fleet, keeper = PlainFleet(plans), keeper or Keeper(job, {})
    if keeper.start is not None:
        fleet.restart(keeper.start)
    return Controller(plans, fleet, tracker or NoTracker(), Terminal(quiet=quiet), folder, keeper).run(), fleet
