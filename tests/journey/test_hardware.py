"""Workers on hardware that differs, and on hardware that errs: real workers, by Ray."""

import dataclasses
import hashlib
import itertools
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.auditing import Check, audited_steps, checks_of, erring
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.fleet.cluster.placing import resources_of_worker
from streamtrain.run.fleet.processes.worker import Worker
from streamtrain.values import Fingerprint
from tests.support.datasets import pack_digits
from tests.support.errant import FAULT, Errant, scaled
from tests.support.fleet import Notebook, run

HOST = platform.node()
LATEST = 280.0
SWITCHES = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
}


@pytest.fixture(scope="module")
def fault(without_shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray, whose processes look for the fault at this place."""
    file = tmp_path_factory.mktemp("fault") / "fault"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FAULT, str(file))
        ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR")
        yield file
        ray.shutdown()


@pytest.fixture
def job(tmp_path: Path, fault: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    return st.Job(
        st.Data(str(tmp_path / "digits"), transform=scaled),
        Errant,
        mode=st.Epochs(max_passes=12),
        optimizer=st.SGD(lr=0.05, momentum=0.9),
        clip=st.Clip(norm=1.0),
        batch_size=64,
        workers=2,
        lanes=4,
        tracking=st.Tracking(folder=str(tmp_path / "runs"), enabled=False),
    )


class Tagged(Notebook):
    """A tracker that keeps its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, str] = {}

    def tag(self, name: str, value: str) -> None:
        self.tags[name] = value


class Odd(dict[str, str]):
    """What one worker's environment has beside, and how many are made before it."""

    before = 1


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Odd:
    """By default it is the second worker."""
    switches = Odd()
    workers = itertools.count()

    def actor(job: st.Job, plain: type, slot: Any, resources: Any = None) -> Any:
        there = PlacementGroupSchedulingStrategy(slot.group, placement_group_bundle_index=slot.index)
        is_odd = plain is Worker and next(workers) == switches.before
        environment = {"env_vars": dict(switches)} if is_odd else {}
        options = {"scheduling_strategy": there, "max_restarts": 0, "runtime_env": environment}
        return ray.remote(plain).options(**options, **(resources_of_worker(job) if resources is None else resources))

    monkeypatch.setattr("streamtrain.run.fleet.actors.recruiting.actor_class", actor)
    return switches


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_worker_with_another_fingerprint_is_refused_in_one_line(
    job: st.Job, odd: dict[str, str], switch: str
) -> None:
    odd[switch] = SWITCHES[switch]
    refused = rf"bits: expected workers that compute the same bits, found .*{HOST}.*; use hosts"
    with pytest.raises(st.ConfigError, match=refused) as error, RayFleet(plan(job)):
        pass
    assert f"{switch} not set on {HOST} and {SWITCHES[switch]} on " in str(error.value), error.value


def test_who_comes_later_with_another_fingerprint_is_turned_away(job: st.Job, odd: Odd) -> None:
    odd.before = 2  # who comes in place of the one that is lost
    odd["MKL_CBWR"] = "COMPATIBLE"
    said: list[str] = []
    with RayFleet(plan(dataclasses.replace(job, mode=st.Epochs(max_passes=10**6))), None, said.append) as fleet:
        fleet.advance(10)
        ray.kill(fleet._members[1].worker)
        deadline = time.monotonic() + LATEST
        for step in itertools.count(11):
            fleet.advance(step)
            if any("is turned away" in line for line in said):
                break
            assert time.monotonic() < deadline, said
        fleet.advance(step + 100)
        assert fleet.workers == 1
    assert sum(f"a worker on host {HOST} is turned away: bits: expected workers that" in line for line in said) == 1


def test_a_difference_that_the_job_allows_is_told_and_tagged(
    job: st.Job, odd: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    odd["ONEDNN_MAX_CPU_ISA"] = "SSE41"
    tracker = Tagged()
    st.train(dataclasses.replace(job, bits="any", mode=st.Epochs(max_passes=1)), tracker=tracker)
    assert re.fullmatch(rf"any; ONEDNN_MAX_CPU_ISA not set on {HOST} and SSE41 on .*", tracker.tags["bits"])
    told = re.findall(r"bits may differ from host to host, as bits=any allows: ONEDNN_MAX_CPU", capfd.readouterr().err)
    assert len(told) == 1


def test_a_run_that_goes_on_elsewhere_is_refused_or_told(job: st.Job) -> None:
    with RayFleet(plan(job)) as fleet:
        began = fleet.likeness.fingerprint
    assert began is not None
    other = Fingerprint("elsewhere", began.facts | {"torch": "1.0", "CPU": "Other/6/1"})
    found = r"--resume, bits: expected what the run began with, found torch 1.0 on elsewhere and .*CPU Other/6/1 on"
    with pytest.raises(st.ConfigError, match=found), RayFleet(plan(job), None, print, other):
        pass
    said: list[str] = []
    with RayFleet(plan(dataclasses.replace(job, bits="any")), None, said.append, other) as fleet:
        assert fleet.likeness.fingerprint == other
    assert any("as bits=any allows: torch 1.0 on elsewhere" in line for line in said), said


def parameters_of(folder: Path) -> str:
    return hashlib.sha256((folder / "parameters.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_processor_that_errs_is_found_by_the_next_audit_and_leaves_no_trace(
    job: st.Job, fault: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    every = 16
    job = dataclasses.replace(job, workers=workers, audit_every=every, checkpoints=st.Checkpoints(seconds=0.0))
    (tmp_path / "quiet").mkdir()
    quiet, _ = run(dataclasses.replace(job, workers=1, audit_every=None), tmp_path / "quiet")
    fault.touch()
    result = st.train(job)
    assert not fault.exists(), "nobody took it"
    said = capfd.readouterr().err
    (found,) = re.findall(
        rf"worker \d on host {HOST} computed other bits than it should for lane \d of step (\d+), which was not "
        r"made: a core or memory there errs; leave the host out, and test it; beginning again at step (\d+)",
        said,
    )
    step, again = map(int, found)
    erred = 100 * workers // 4  # a worker has 4 / workers lanes; audits are backwards too
    assert (step + 1) % every == 0 and step <= erred + every and again <= step + 1 - every, said
    assert parameters_of(result.folder) == parameters_of(quiet.folder)


def test_audits_change_no_bit_and_no_step(job: st.Job, fault: Path, tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    quiet, fleet = run(dataclasses.replace(job, workers=1), tmp_path / "quiet")
    result = st.train(dataclasses.replace(job, workers=3, audit_every=1))
    assert parameters_of(result.folder) == parameters_of(quiet.folder)
    assert result.examples_used == sum(update.loss.count for update in fleet.updates)


def test_audits_look_at_every_worker_in_each_and_by_arithmetic_alone() -> None:
    hosting = (range(3), range(3, 5), range(5, 8))
    seen = set()
    for step in range(200):
        checks = checks_of(step, 7, hosting)
        assert checks == checks_of(step, 7, hosting)
        assert [check.worker for check in checks] == [0, 1, 2] and [check.auditor for check in checks] == [1, 2, 0]
        assert all(check.lane in hosting[check.worker] for check in checks)
        seen |= {check.lane for check in checks}
    assert seen == set(range(8))
    job = st.Job(st.Data("unused"), Errant, audit_every=5)
    assert list(audited_steps(job, 3, 20)) == [4, 9, 14, 19]
    assert not list(audited_steps(dataclasses.replace(job, audit_every=None), 0, 20))


@pytest.mark.parametrize(
    ("claims", "again", "expected"),
    [
        (("x", "a"), ["a", "a"], [0]),  # the worker erred once
        (("a", "x"), ["a", "a"], [1]),  # its auditor did
        (("a", "x"), ["a", "y"], [1]),  # its auditor errs again, otherwise
        (("x", "a"), ["x", "a", "a"], [0]),  # always the same way: a third one tells
        (("a", "x"), ["a", "x", "a"], [1]),
        (("x", "a"), ["x", "a"], [0, 1]),  # nobody tells
        (("x", "y"), ["z", "w", "a"], [0, 1]),
    ],
)
def test_who_erred_is_who_is_not_confirmed(claims: tuple[str, str], again: list[str], expected: list[int]) -> None:
    assert erring(Check(0, 0, 1), claims, again) == expected
