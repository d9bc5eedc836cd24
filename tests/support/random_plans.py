"""Runs by random plans: settings drawn by a number, ended by SIGKILL or SIGTERM at random moments, and gone on with.

Each run has a process of its own, out of a server that has everything imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import streamtrain as st
from streamtrain.errors import Interrupted
from streamtrain.prepare.plan import Plan
from streamtrain.run import train as run_train
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.track.terminal import Terminal
from tests.support.fleet import PlainSpare
from tests.support.whole_sets import Auroc

CALLS = {"so far": 0, "until": -1}
"""Of `scaled` in this process, and the one at which it is ended."""
SECONDS = 120
of_this_process = run_train._inline


@dataclass(frozen=True)
class RandomPlan:
    """What a number draws.

    Attributes:
        settings: of the job. ends: (signal, after so many batches), one process after another.
        beside: whether what is held out is measured while training goes on.
    """

    number: int
    settings: dict[str, Any]
    ends: tuple[tuple[signal.Signals, int], ...]
    beside: bool = False

    @classmethod
    def draw(cls, number: int) -> RandomPlan:
        """Of the same number always the same."""
        rng = random.Random(number)
        online = rng.random() < 0.3
        reshuffle = rng.choice(("stored", "examples"))
        epochs = st.Epochs(max_passes=3, patience=rng.choice((1, 2, 3)), reshuffle=reshuffle)
        splits = rng.choice((("validation",), ("validation", "test")))
        evaluate = st.Evaluate(every=rng.choice((None, 70, 130)), examples=rng.choice((None, 20)), splits=splits)
        optimizers = (st.SGD(lr=0.1, momentum=0.9), st.AdamW(lr=3e-3), st.Lion(lr=3e-4), st.Muon(lr=0.02))
        settings: dict[str, Any] = {
            "mode": st.Online() if online else epochs,
            "optimizer": rng.choice(optimizers),
            "schedule": st.Schedule(rng.choice(("constant", "cosine")), warmup_steps=rng.choice((0, 5))),
            "average": rng.choice((st.Average(), st.Average(decay=0.9))),
            "clip": rng.choice((st.Clip(), st.Clip(norm=0.5))),
            "batch_size": rng.choice((8, 24)),
            "lanes": rng.choice((1, 2, 4)),
            "evaluate": evaluate,
            "max_steps": rng.choice((None, None, 17)),
            "metrics": rng.choice(({}, {"margin": margin}, {"margin": margin, "auroc": Auroc()})),
            "listeners": rng.choice(((), (end_after_three,))),
            "seed": number,
        }
        signals = (signal.SIGKILL, signal.SIGTERM)
        ends = tuple((rng.choice(signals), rng.randrange(2, 70)) for _ in range(rng.choice((1, 2, 3))))
        return cls(number, settings, ends, beside=rng.random() < 0.5)

    def branch(self, data: Path, runs: Path) -> st.Job | None:
        """What may go on as a branch by one more pass, with another rate; ``None`` where it may not."""
        settings = self.settings
        if isinstance(settings["mode"], st.Online) or settings["schedule"].kind != "constant":
            return None
        optimizer = dataclasses.replace(settings["optimizer"], lr=settings["optimizer"].lr / 2)
        return dataclasses.replace(self.job(data, runs), optimizer=optimizer, max_steps=None, listeners=())

    def job(self, data: Path, runs: Path) -> st.Job:
        """As it is trained."""
        return st.Job(
            st.Data(str(data), transform=scaled, augment=shifted),
            model,
            checkpoints=st.Checkpoints(seconds=0.0),
            tracking=st.Tracking(enabled=False, folder=str(runs)),
            **self.settings,
        )


def model() -> torch.nn.Module:
    """With statistics of batches and dropout: much to keep."""
    layers = (torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.2))
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(16, 10))


def shifted(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """By some pixels."""
    return {**example, "image": np.roll(example["image"], int(rng.integers(0, 3)), 1)}


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every batch goes through here: where the process is ended, if it is."""
    CALLS["so far"] += 1
    if CALLS["so far"] == CALLS["until"]:
        os.kill(os.getpid(), CALLS["signal"])
    return {**batch, "image": batch["image"].float() / 255}


def margin(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A metric that is a mean: how far the right class is ahead of the mean of all."""
    return output.gather(1, target[:, None])[:, 0] - output.mean(1)


def end_after_three(evaluation: st.Evaluation) -> str | None:
    """A listener that ends the run by how far it is, as it must, so that a run that goes on ends there too."""
    return "far enough" if evaluation.examples_used > 600 else None


@dataclass(frozen=True)
class Outcome:
    """Of a process: how it ended; of a run that came to its end, its bits and its points."""

    ended: str
    sha256: str = ""
    points: tuple[Any, ...] = ()


def run(job: st.Job, end: tuple[signal.Signals, int] | None, **how: Any) -> Outcome:
    """Trains in a process of its own, which the signal ends after so many batches unless it is done before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["streamtrain.run.train", "streamtrain.run.fleet.inline", "tests.support.random_plans"]
    )
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(theirs, job, end, how))
    process.start()
    theirs.close()
    try:
        assert mine.poll(SECONDS), "it neither ended nor answered"
        found: Outcome = mine.recv()
    except EOFError:
        found = Outcome("killed")
    process.join(SECONDS)
    return found


@contextlib.contextmanager
def with_spare(plan: Plan, keeper: Keeper, terminal: Terminal, ended: Callable[[str], None]) -> Iterator[Any]:
    """The one worker in this process, and a spare measurer beside it in a thread, in place of an actor of Ray's."""
    spare = PlainSpare(plan)
    with of_this_process(plan, keeper, terminal, ended) as (fleet, _):
        yield fleet, spare


def _train(
    answer: Connection[Any, Any], job: st.Job, end: tuple[signal.Signals, int] | None, how: dict[str, Any]
) -> None:
    if how.pop("beside", False):
        run_train._inline = with_spare
    CALLS["so far"], CALLS["until"] = 0, -1 if end is None else end[1]
    CALLS["signal"] = signal.SIGKILL if end is None else end[0]
    try:
        result = st.train(job, name="plan", quiet=True, inline=True, **how)
    except Interrupted:
        answer.send(Outcome("interrupted"))
        return
    answer.send(Outcome("done", sha256(result.parameters), points_of(result)))


def sha256(parameters: dict[str, torch.Tensor]) -> str:
    """Of all bits."""
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


def points_of(result: st.Result) -> tuple[Any, ...]:
    """All that a run measures, as JSON has it, but for what a clock said and where it lies."""
    summary = result.summary()
    clocks = {"examples_per_second", "measuring_fraction_of_time", "folder", "mlflow_run_id", "not_in_mlflow"}
    return tuple(sorted((name, repr(value)) for name, value in summary.items() if name not in clocks))
