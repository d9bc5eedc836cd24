"""A run goes on with the job that it began with alone; whatever differs is named in one line."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.resuming import check_settings, fixed_settings
from tests.support.datasets import pack_digits
from tests.support.fleet import PlainFleet
from tests.unit.run.test_controller import scaled


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits")
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    optimizer = st.SGD(lr=0.1, momentum=0.9, dampening=0.1)
    update: dict[str, Any] = {"optimizer": optimizer, "average": st.Average(0.99), "clip": st.Clip(norm=1.0)}
    return st.Job(data, model, **update, batch_size=50, lanes=2, seed=1)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def falling(step: int, factor: float = 0.9) -> float:
    return factor**step


def halved(step: int) -> float:
    return falling(step, 0.5)


class Stairs:
    def __call__(self, step: int) -> float:
        return 0.1 ** (step // 100)


def test_another_function_is_another_schedule(job: st.Job, tmp_path: Path) -> None:
    def settings(schedule: Any) -> dict[str, str]:
        return fixed_settings(plan(dataclasses.replace(job, schedule=schedule)))

    saved = settings(functools.partial(falling, factor=0.5))
    check_settings(saved, settings(functools.partial(falling, factor=0.5)), tmp_path)
    for other in (functools.partial(falling, factor=0.6), falling, halved, st.Schedule()):
        with pytest.raises(
            st.ConfigError, match=r"--resume, schedule: expected falling\(factor=0.5\), as the run began,"
        ):
            check_settings(saved, settings(other), tmp_path)
    check_settings(settings(Stairs()), settings(Stairs()), tmp_path)


def test_another_job_is_refused_by_the_setting_that_differs(job: st.Job, tmp_path: Path) -> None:
    saved = fixed_settings(plan(job))
    same = dataclasses.replace(job, workers=2, mode=st.Epochs(max_passes=99, patience=7))
    check_settings(saved, fixed_settings(plan(same)), tmp_path)
    sgd: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "optimizer": ({"optimizer": st.AdamW(lr=0.1)}, "expected sgd, as the run began, found adamw"),
        "optimizer.lr": ({"optimizer": st.SGD(**{**sgd, "lr": 0.2})}, "expected 0.1, as the run began, found 0.2"),
        "optimizer.dampening": ({"optimizer": st.SGD(lr=0.1, momentum=0.9)}, "expected 0.1, .*, found 0.0"),
        "optimizer.weight_decay": ({"optimizer": st.SGD(**sgd, weight_decay=0.01)}, "expected 0.0, .*, found 0.01"),
        "clip.norm": ({"clip": st.Clip()}, "expected 1.0, .*, found None"),
        "schedule.kind": ({"schedule": st.Schedule("one-cycle")}, "expected constant, .*, found one-cycle"),
        "schedule": ({"schedule": halved}, "expected a shape, .*, found halved"),
        "groups": ({"groups": (st.Group("*.bias", lr_factor=2.0),)}, r"expected \(\), .*, found \(Group\(pattern='"),
        "average.decay": ({"average": st.Average()}, "expected 0.99, .*, found None"),
        "nonfinite": ({"nonfinite": "skip"}, "expected stop, .*, found skip"),
        "batch_size": ({"batch_size": 100}, "expected 50, .*, found 100"),
    }
    for name, (change, message) in changes.items():
        with pytest.raises(st.ConfigError, match=rf"^--resume, {name}: {message}.*; set it back, or start") as raised:
            check_settings(saved, fixed_settings(plan(dataclasses.replace(job, **change))), tmp_path)
        assert "\n" not in str(raised.value)
    with pytest.raises(st.ConfigError, match="checkpoint, momentum/1.bias: expected no such tensor, found shape"):
        plain = dataclasses.replace(job, optimizer=st.SGD())
        PlainFleet(plan(plain)).restart((PlainFleet(plan(job)).save(), 5))
