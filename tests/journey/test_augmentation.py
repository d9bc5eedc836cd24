"""Promises 11 and 12 in whole runs: the same bits with random augmentation whoever reads, and none in evaluation."""

import contextlib
import dataclasses
import hashlib
import re
import time
from pathlib import Path

import psutil
import pytest
import torch

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from tests.support.augmentations import augmented_job
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet

STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=1500)
    return folder


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


def ended(name: str) -> None:
    """Kills one of this Ray's actors of a class."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if re.match(rf"ray::{name}\b", " ".join(process.cmdline())):
                process.kill()
                return
    raise AssertionError(f"no {name}")


def alone(job: st.Job) -> str:
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(STEPS)
        return digest(fleet.snapshot())


def test_promise_11_the_same_bits_on_1_and_4_workers_through_losses(folder: Path, local_ray: None) -> None:
    job = augmented_job(folder)
    expected = alone(job)
    assert alone(dataclasses.replace(job, data=dataclasses.replace(job.data, decode_threads=4))) == expected
    with RayFleet(plan(dataclasses.replace(job, workers=4))) as fleet:
        fleet.advance(STEPS // 3)
        ended("Worker")
        fleet.advance(2 * STEPS // 3)
        fleet.advance(STEPS)
        assert digest(fleet.snapshot()) == expected


def test_promise_2_three_streamers_for_each_worker_change_no_bit_and_lost_ones_are_replaced(
    folder: Path, local_ray: None
) -> None:
    job = dataclasses.replace(augmented_job(folder, streamers=3), mode=st.Epochs(10**6), workers=2)

    def streamers(fleet: RayFleet) -> list[int]:
        return [len(each.streamers) for each in fleet._members]

    with RayFleet(plan(job)) as fleet:
        assert streamers(fleet) == [3, 3]
        done = fleet.advance(20)
        ended("WorkersStreamer")
        while sum(streamers(fleet)) == 6:
            done += fleet.advance(done[-1].step + 11)
        assert sorted(streamers(fleet)) == [2, 3]
        (recovery,) = fleet.recovered()
        assert recovery.workers == 2
        while sum(streamers(fleet)) < 6:
            time.sleep(0.05)  # leaves the cores to the one who is about to come
            done += fleet.advance(done[-1].step + 11)
        done += fleet.advance(done[-1].step + 31)
        found = digest(fleet.snapshot())
    with PlainFleet(plan(dataclasses.replace(job, workers=1))) as one:
        assert one.advance(done[-1].step + 1) == done and digest(one.snapshot()) == found


def test_promise_11_resumed_anywhere_the_bits_are_the_same(folder: Path) -> None:
    job = augmented_job(folder)
    expected = alone(job)
    for stop in (1, STEPS // 2 - 1, plan(job).order.steps, STEPS - 1):
        with PlainFleet(plan(job)) as first:
            first.advance(stop)
            state = first.save(), stop
        with PlainFleet(plan(job)) as second:
            second.restart(state)
            second.advance(STEPS)
            assert digest(second.snapshot()) == expected, stop


def test_promise_12_both_risks_are_of_the_examples_as_they_are(folder: Path) -> None:
    """Equal to the bit to those of a job without augmentation at the same parameters."""
    job = augmented_job(folder)
    slices = [(0, 100), (100, 150)]
    with PlainFleet(plan(job)) as fleet:
        fleet.advance(20)
        parameters = fleet.snapshot()
        found = [fleet.evaluate(split, slices) for split in ("train", "validation")]
    bare = dataclasses.replace(job.data, augment=None, augment_batch=None)
    with PlainFleet(plan(dataclasses.replace(job, data=bare))) as fleet:
        fleet.restore(parameters)
        assert [fleet.evaluate(split, slices) for split in ("train", "validation")] == found


def test_augmentation_changes_what_is_trained(folder: Path) -> None:
    job = augmented_job(folder)
    bits = {
        alone(dataclasses.replace(job, data=dataclasses.replace(job.data, **without)))
        for without in ({}, {"augment": None}, {"augment_batch": None}, {"augment": None, "augment_batch": None})
    }
    assert len(bits) == 4


def test_a_whole_run_with_augmentation(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = [st.train(augmented_job(folder), inline=True, quiet=True) for _ in range(2)]
    assert digest(results[0].parameters) == digest(results[1].parameters)
    assert results[0].evaluations == results[1].evaluations
