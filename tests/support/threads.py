"""Several workers of a run as threads of this process: a `Fleet` for the controller, cheap and without Ray."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from streamtrain.aggregate.exchange.join import Seat
from streamtrain.job import Job
from streamtrain.order import hosting_of
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.inline import InlineFleet
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.run.outcome.result import Result
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker, Tracker
from streamtrain.values import Update

Answer = TypeVar("Answer")


class ThreadFleet(InlineFleet):
    """As many workers as the job has at most, who meet in one memory, or each on a host of its own.

    Models that draw random numbers are not for it: threads share torch's generator.

    Args:
        leaves_at: a step from which the last worker is missing; the others form anew, as after its death.
    """

    def __init__(self, plans: Plan, *, networked: bool = False, leaves_at: int | None = None) -> None:
        self.networked = networked
        self.leaves_at = leaves_at
        self.updates: list[Update] = []
        super().__init__(plans)

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        self.all_workers = [Worker(self._plan, start) for _ in range(self._plan.job.most_workers)]
        self._form(0 if start is None else start[1])

    def advance(self, step: int) -> list[Update]:
        if self.leaves_at is not None and self.updates and self.updates[-1].step + 1 >= self.leaves_at:
            self.leaves_at = None
            self.all_workers.pop()
            self._form(self.updates[-1].step + 1)
        made = self._each(lambda worker: worker.advance(step))[0]
        self.updates += made
        return made

    def extend(self, plan: Plan, step: int) -> None:
        self._plan = plan
        self._each(lambda worker: worker.extend(plan))

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        self._each(lambda worker: worker.restore(parameters))

    def _form(self, step: int) -> None:
        count = len(self.all_workers)
        self.worker = first = self.all_workers[0]
        meeting = first.make_store("127.0.0.1") if self.networked else first.offer_memory(step)
        hosting = hosting_of(self._plan.order.lanes, count)
        processes = dict.fromkeys(range(count), os.getpid())
        hosts = tuple(range(n, n + 1) for n in range(count)) if self.networked else ()
        seats = {id(w): Seat(n, hosting, step, meeting, processes, hosts) for n, w in enumerate(self.all_workers)}
        self._each(lambda worker: worker.join(seats[id(worker)]))

    def _each(self, call: Callable[[Worker], Answer]) -> list[Answer]:
        with concurrent.futures.ThreadPoolExecutor(len(self.all_workers)) as threads:
            return list(threads.map(call, self.all_workers))


def run_in_threads(
    job: Job,
    workers: int,
    folder: Path,
    *,
    networked: bool = False,
    leaves_at: int | None = None,
    tracker: Tracker | None = None,
) -> tuple[Result, ThreadFleet]:
    """Trains the job with so many workers."""
    plans = plan(dataclasses.replace(job, workers=workers, lanes=job.lane_count))
    fleet = ThreadFleet(plans, networked=networked, leaves_at=leaves_at)
    keeper = Keeper(plans.job, {})
    return Controller(plans, fleet, tracker or NoTracker(), Terminal(quiet=True), folder, keeper).run(), fleet
