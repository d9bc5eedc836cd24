"""All workers of a run without Ray: plain workers as a `Fleet`, one in this process."""

from collections.abc import Sequence
from pathlib import Path

from streamtrain.job import Job
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.inline import InlineFleet
from streamtrain.run.outcome.result import Result
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker, Tracker
from streamtrain.values import Reading, Update


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
