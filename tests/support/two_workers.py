"""Real workers of a job without Ray: one in this process, or two in the processes of a `Crew`."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from streamtrain.aggregate.exchange.join import Seat
from streamtrain.aggregate.exchange.memory import Handle
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.errors import Interrupted
from streamtrain.job import Data, Epochs, Job, Tracking
from streamtrain.order import hosting_of
from streamtrain.prepare.plan import Plan, plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.checkpoints.resuming import check_settings, fixed_settings
from streamtrain.run.checkpoints.signals import stopped_by_signal
from streamtrain.run.controller import Controller
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from streamtrain.values import Update
from tests.support.crew import Crew
from tests.support.fleet import PlainFleet
from tests.support.layers import layer
from tests.support.models import REFUSED, TRAINED

LANES, STEPS = 3, 4
"""Three: a sum of three equal numbers may round, so a buffer that stays as it is shows whether it is left alone."""
_WORKERS: dict[str, Worker] = {}


def job_of(name: str, url: str, workers: int = 1) -> Job:
    """The job that trains the model of this name."""
    make = TRAINED[name] if name in TRAINED else REFUSED[name][0] if name in REFUSED else lambda: layer(name)
    return Job(
        Data(url, inputs=("x",)),
        make,
        mode=Epochs(max_passes=2),
        batch_size=24,
        lanes=LANES,
        workers=workers,
        optimizer=SGD(lr=0.1, momentum=0.9),
        seed=3,
        tracking=Tracking(enabled=False),
    )


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of every bit of named tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def train_alone(job: Job, *, evaluations: bool = False) -> str:
    """The digest of the state, and of the state dict, after `STEPS` updates by one worker.

    Args:
        evaluations: the risk is measured before and after every update.
    """
    fleet = PlainFleet(plan(job))
    for step in range(STEPS):
        if evaluations:
            fleet.evaluate("validation", [(0, 7), (7, 12)])
        fleet.advance(step + 1)
    if evaluations:
        fleet.evaluate("validation", [(0, 12)])
    return digest(fleet.save()) + digest(fleet.snapshot())


class LastState(PlainFleet):
    """Keeps a digest of the state after every stint, and asks to stop after the first where that is wanted."""

    def __init__(self, plans: Plan, stop: Callable[[], None] | None = None) -> None:
        self.state, self._stop = "", stop
        super().__init__(plans)

    def advance(self, step: int) -> list[Update]:
        done = super().advance(step)
        self.state = digest(self.save())
        if self._stop is not None:
            self._stop()
        return done


def train_by_controller(job: Job, folder: Path, *, stop: bool = False) -> tuple[object, ...]:
    """Digests of the last state and of what is kept, and all risks, after a whole run.

    Args:
        folder: new, for the run's files.
        stop: SIGTERM comes after its first stint, and another controller goes on from the checkpoint on disk.
    """
    plans, last = plan(job), None
    if stop:
        files = CheckpointFiles(str(folder / "kept"), 2, print)
        keeper = Keeper(job, fixed_settings(plans), files)
        fleet = LastState(plans, lambda: signal.raise_signal(signal.SIGTERM))
        before = signal.getsignal(signal.SIGTERM)
        try:
            with stopped_by_signal(keeper, lambda: False, print):
                Controller(plans, fleet, NoTracker(), Terminal(quiet=True), folder, keeper).run()
        except Interrupted:
            last = files.newest()
        finally:
            signal.signal(signal.SIGTERM, before)  # ignored since it came: other processes are about to end then
        assert last is not None and 0 < last.step < plans.total_steps, "not stopped on its way"
        check_settings(last.settings, fixed_settings(plans), folder)
    keeper = Keeper(job, fixed_settings(plans), None, last)
    fleet = LastState(plans)
    if keeper.start is not None:
        fleet.restart(keeper.start)
    result = Controller(plans, fleet, NoTracker(), Terminal(quiet=True), folder, keeper).run()
    return fleet.state, digest(result.parameters), result.evaluations, result.chosen


def train_by_two(crew: Crew, name: str, url: str) -> set[str]:
    """The same by two workers: both digests."""
    processes = crew.all(_open, [(name, url)] * 2)
    (meeting,) = crew.all(_offer, [()])
    crew.all(_join, [(worker, meeting, dict(enumerate(processes))) for worker in range(2)])
    crew.all(_advance, [()] * 2)
    return set(crew.all(_digest, [()] * 2))


def _open(name: str, url: str) -> int:
    _WORKERS["own"] = Worker(plan(job_of(name, url, workers=2)))
    return os.getpid()


def _offer() -> Handle | None:
    return _WORKERS["own"].offer_memory(0)


def _join(worker: int, meeting: Handle, processes: Mapping[int, int]) -> None:
    _WORKERS["own"].join(Seat(worker, hosting_of(LANES, 2), 0, meeting, dict(processes)))


def _advance() -> None:
    _WORKERS["own"].advance(STEPS)


def _digest() -> str:
    own = _WORKERS["own"]
    return digest(own.save()) + digest(own.snapshot())
