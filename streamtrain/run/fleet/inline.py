"""A whole run in this process, without Ray: breakpoints work, a notebook's and a test's natural form.

One worker hosts all lanes, so the bits are those of any number of workers over Ray.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from streamtrain.aggregate.exchange.join import Seat
from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.model.machine.device import gpu_usage
from streamtrain.order import hosting_of
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.run.fleet.processes.measurer import measure_alone
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.track.system import HERE, Usage
from streamtrain.values import Fingerprint, Loading, Recovery, Risk, Skip, StepTimes, Update

if TYPE_CHECKING:
    from types import TracebackType


def alone(job: Job) -> Job:
    """The job with one worker that hosts all its lanes; what needs several processes is refused.

    Raises:
        ConfigError: naming the setting.
    """
    needs = {
        "aggregation": (job.pooled, type(job.aggregation).__name__, "leave it out: its bits depend on who is late"),
        "evaluate.beside": (job.evaluate.beside, "on", "leave it out: there is no process beside this one"),
        "audit_every": (job.audit_every is not None, f"{job.audit_every}", "leave it out: there is nobody to audit"),
    }
    for setting, (given, found, do) in needs.items():
        if given:
            expected = "a setting that one process by itself can keep"
            raise ConfigError(complaint(f"--inline, {setting}", expected=expected, found=found, do=f"{do}, or use Ray"))
    return dataclasses.replace(job, workers=1, lanes=job.lane_count)


class InlineFleet:
    """The one worker, called directly; a `Fleet` for the controller. Use it as a context.

    At its end the process has its threads, random numbers and choice of kernels back.

    Args:
        start: a checkpoint's tensors and step, to begin with.
        say: takes a line about bits that may differ.
        began: the fingerprint of the run that goes on.

    Attributes:
        likeness: what this process computes with, against the run that goes on.
        workers: one.
        worker: the plain object that trains.
    """

    def __init__(
        self,
        plan: Plan,
        start: tuple[Mapping[str, torch.Tensor], int] | None = None,
        say: Callable[[str], None] = lambda _: None,
        began: Fingerprint | None = None,
    ) -> None:
        self._plan = plan
        self._before = ProcessSettings()
        self.workers = 1
        self.likeness = Likeness(plan.job, began, say)
        try:
            self.restart(start)
        except BaseException:
            self._before.put_back()
            raise

    def __enter__(self) -> InlineFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before.put_back()

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state."""
        return self.worker.advance(step)

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]], *, by_class: bool = False) -> list[Risk]:
        """Risk on each slice; ``by_class`` with counts of classes."""
        return measure_alone(self._plan, self.worker.evaluate, split, slices, by_class=by_class)

    def extend(self, plan: Plan, step: int) -> None:  # noqa: ARG002 - the worker is at it
        """Goes on with a data set that has grown, or with other batch sizes, from global ``step``."""
        self._plan = plan
        self.worker.extend(plan)

    def usage(self) -> Usage:
        """Of this process's GPU; whoever asks knows the host."""
        return {HERE: gpu_usage(self._plan.job.device)}

    def loading(self) -> Loading:
        """What reading has cost so far."""
        return self.worker.loading()

    def traces(self) -> list[str | None]:
        """The Chrome trace of a few steps, as JSON, where it is there."""
        return [self.worker.trace()]

    def times(self) -> StepTimes:
        """What the steps have been spent on so far."""
        return self.worker.times()

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""
        return self.worker.skipped()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state."""
        return self.worker.snapshot()

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones."""
        return self.worker.distance()

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without what the optimizer keeps."""
        self.worker.restore(parameters)

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""
        return self.worker.save()

    def restart(self, start: tuple[Mapping[str, torch.Tensor], int] | None) -> None:
        """A new worker, from a checkpoint's tensors and step, or from the beginning."""
        self.worker = Worker(self._plan, start)
        self.likeness.check([self.worker.fingerprint()])
        step = 0 if start is None else start[1]
        meeting = self.worker.offer_memory(step) if self._plan.job.device == "cpu" else None
        self.worker.join(Seat(0, hosting_of(self._plan.order.lanes, 1), step, meeting, {0: os.getpid()}))

    def recovered(self) -> list[Recovery]:
        """Nobody is lost here but with the run."""
        return []


class ProcessSettings:
    """What of this process a run changes, as it was; whether denormals are flushed cannot be asked for."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._deterministic = torch.get_deterministic_debug_mode()
        self._fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        self._tries = torch.backends.cudnn.benchmark
        self._random = torch.get_rng_state()

    def put_back(self) -> None:
        """Makes them the process's again."""
        torch.set_num_threads(self._threads)
        torch.set_flush_denormal(False)
        if "torch._inductor" in sys.modules:  # it has a setting of its own, and is not imported for that alone
            torch.use_deterministic_algorithms(self._deterministic > 0, warn_only=self._deterministic == 1)
        torch.set_deterministic_debug_mode(self._deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = self._fills  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = self._tries
        torch.set_rng_state(self._random)
