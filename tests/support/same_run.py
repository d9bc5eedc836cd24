"""One run made several ways, which have to end in the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.support.fleet import PlainFleet
from tests.support.small_job import digest


def noisy(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """An augmentation of images of bytes."""
    return {**example, "image": example["image"] ^ rng.integers(0, 8, example["image"].shape, np.uint8)}


def bits(job: st.Job, steps: int) -> str:
    """Of the parameters after so many steps in this process."""
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(steps)
        return digest(fleet.snapshot())


def assert_same_bits_from_a_checkpoint(job: st.Job, stop: int = 31, steps: int = 60) -> None:
    """In this process, gone on with as four workers would."""
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(stop)
        kept = fleet.save(), stop
    with PlainFleet(plan(dataclasses.replace(job, workers=4))) as fleet:
        fleet.restart(kept)
        fleet.advance(steps)
        assert digest(fleet.snapshot()) == bits(job, steps)


def assert_same_bits_over_ray(job: st.Job, *numbers: int, steps: int = 40) -> None:
    """By these numbers of workers, and in this process; Ray has been started."""
    found = []
    for workers in numbers:
        with RayFleet(plan(dataclasses.replace(job, workers=workers))) as fleet:
            fleet.advance(steps)
            found.append(digest(fleet.snapshot()))
    assert found == [bits(job, steps)] * len(numbers)


def train_as_if_stopped(job: st.Job) -> None:
    """Trains to the end of the job, and leaves the folder as if the run had been stopped before it wrote its result."""
    ended = st.train(job, inline=True, quiet=True)
    (Path(ended.folder) / "result.json").unlink()
