"""Promise 10: wrong settings, jobs and data are refused before anything starts, in one line that names the thing."""

import dataclasses
import fnmatch
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.surroundings import check_cpus
from streamtrain.prepare.trial import preflight
from tests.support.command import streamtrain_forked
from tests.support.datasets import pack_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack_digits(folder)
    return folder


def linear(inputs: int = 64, outputs: int = 10) -> Callable[[], torch.nn.Module]:
    return lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, outputs))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def mean_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, target)


def without_label(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"image": batch["image"].float()}


class ScaleAndSum(torch.nn.Module):
    """Has no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).sum(1, keepdim=True) * self.scale


@dataclasses.dataclass(frozen=True)
class Holding(st.SGD):
    lock: Any = dataclasses.field(default_factory=threading.Lock)


def in_a_group(optimizer: st.Optimizer, **settings: Any) -> st.Job:
    return st.Job(st.Data("x"), linear(), optimizer=optimizer, groups=(st.Group("*.bias", **settings),))


def holding_a_lock() -> Callable[[int], float]:
    lock = threading.Lock()
    return lambda step: 1.0 if lock.locked() else 0.5


def batch_norm() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10))


JOBS: dict[str, tuple[Callable[[str], st.Job], str]] = {
    "no data set": (
        lambda _: st.Job(st.Data("nowhere"), linear()),
        "nowhere/manifest.json: expected a data set's manifest",
    ),
    "unknown field": (
        lambda url: st.Job(st.Data(url, inputs=("pixels",)), linear()),
        "digits: expected a field 'pixels', found image, label; set data.inputs",
    ),
    "shape mismatch": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(inputs=63)),
        "the model's forward failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "no transform": (
        lambda url: st.Job(st.Data(url), linear()),
        "the model's forward failed: RuntimeError: ",
    ),
    "labels out of range for cross-entropy": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(outputs=9)),
        "field 'label': expected labels from 0 to 8, the model's 9 outputs, found 0 to 9; give the model an output",
    ),
    "mean loss": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), loss=mean_loss),
        r"loss: expected one value an example, shape \(4,\), found \(\); do not average over examples",
    ),
    "label lost": (
        lambda url: st.Job(st.Data(url, transform=without_label), linear()),
        "data.transform: expected a field 'label', found image; return it too",
    ),
    "model fails": (
        lambda url: st.Job(st.Data(url), lambda: 1 / 0),
        "model failed: ZeroDivisionError: division by zero",
    ),  # type: ignore[arg-type,return-value]
    "nothing to train": (
        lambda url: st.Job(st.Data(url, transform=scaled), lambda: linear()().requires_grad_(False)),
        "model: expected trainable parameters of one element type, found none",
    ),
    "one example for BatchNorm": (
        lambda url: st.Job(st.Data(url, transform=scaled), batch_norm, batch_size=479),
        "Expected more than 1 value per channel.*a minibatch of 1 is as small as 1: another batch_size",
    ),
    "a group that fits no parameter": (
        lambda url: st.Job(
            st.Data(url, transform=scaled), linear(), optimizer=st.AdamW(), groups=(st.Group("head.*", lr_factor=2.0),)
        ),
        r"groups: expected parameters named 'head.\*', found 1.weight, 1.bias; correct the pattern",
    ),
    "a group that sets what the default optimizer does not have": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), groups=(st.Group("*.bias", betas=(0.5, 0.9)),)),
        r"groups, '\*.bias': expected a setting of SGD: lr, .*, found 'betas'; leave it out",
    ),
    "Muon without a matrix": (
        lambda url: st.Job(st.Data(url, transform=scaled), ScaleAndSum, optimizer=st.Muon()),
        r"optimizer: expected a parameter that Muon itself moves, found scale \(10,\); use another optimizer",
    ),
    "Muon that leaves every matrix to AdamW": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), optimizer=st.Muon(others=("*",))),
        r"optimizer: expected a parameter that Muon itself moves, found 1.weight \(10, 64\), 1.bias \(10,\); use an",
    ),
    "an optimizer that cannot travel": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), optimizer=Holding()),
        "optimizer: expected settings that can be sent to workers, found TypeError: cannot pickle",
    ),
    "a rate that turns negative": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), schedule=lambda step: 1 - step / 100),
        "schedule, at step 101: expected a finite factor of the learning rate, at least 0, found -0.01",
    ),
    "a schedule that cannot travel": (
        lambda url: st.Job(st.Data(url, transform=scaled), linear(), schedule=holding_a_lock()),
        "schedule: expected a function that can be sent to workers, found TypeError: cannot pickle",
    ),
    "a decay that is longer than the run": (
        lambda url: st.Job(
            st.Data(url, transform=scaled), linear(), schedule=st.Schedule("warmup-stable-decay", decay_steps=999)
        ),
        "schedule.decay_steps: expected at most 240, what the warm-up leaves of 240 steps, found 999; lower it",
    ),
    "too many examples": (
        lambda url: st.Job(st.Data(url), linear(), mode=st.Online(max_examples=2000)),
        "mode.max_examples: expected at most the 1,438 training examples of .*, found 2,000; lower it",
    ),
}


@pytest.mark.parametrize("case", JOBS)
def test_promise_10_jobs_are_refused_before_ray_starts(case: str, digits: Path) -> None:
    make, message = JOBS[case]
    with pytest.raises(st.StreamtrainError, match=message) as raised:
        preflight(plan(make(str(digits))))
    assert "\n" not in str(raised.value)


def test_a_good_job_passes_and_gives_the_signature(digits: Path) -> None:
    trial = preflight(plan(st.Job(st.Data(str(digits), transform=scaled), linear(), batch_size=64)))
    assert trial.inputs[0].shape == (4, 8, 8) and trial.output is not None and trial.output.shape == (4, 10)


def test_batch_norm_passes_where_every_part_has_two_examples(digits: Path) -> None:
    preflight(plan(st.Job(st.Data(str(digits), transform=scaled), batch_norm, batch_size=100)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 63, "workers": 2}, "batch_size: expected a multiple of the 2 lanes, found 63; use 62 or 64"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, found 0"),
        ({"batch_size": 1.5}, "batch_size: expected a whole number of at least 1, found 1.5"),
        ({"workers": 4, "lanes": 2}, "workers: expected at most 2, the number of lanes, found 4; raise lanes"),
        ({"workers": (2, 1)}, r"workers: expected the fewest before the most, found \(2, 1\); turn them round"),
        ({"workers": (0, 1)}, "workers: expected a whole number of at least 1, found 0"),
        ({"workers": (1, 2, 3)}, "workers: expected a number, or the fewest and the most"),
        ({"placement": "scattered"}, "placement: expected pack or spread, found 'scattered'"),
        (
            {"placement": "spread", "exchange": "shared"},
            "placement: expected pack for one host's memory, found",
        ),
        ({"streamers": "gpu_nodes"}, "streamers: expected beside or cpu_nodes, found 'gpu_nodes'"),
        ({"streamers": "cpu_nodes", "aggregation": st.Stale()}, "streamers: expected none: who reads what of a pool"),
        ({"loss": "hinge"}, "loss: expected cross_entropy or mse, found 'hinge'"),
        ({"model": 3}, "model: expected a function, found 3"),
        ({"schedule": 0.1}, r"schedule: expected st.Schedule\(…\) or a function of the step, found 0.1; declare it"),
        ({"schedule": torch.optim.lr_scheduler.StepLR}, "schedule: expected st.Schedule.* or a function of the step"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
    ],
)
def test_promise_10_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(st.ConfigError, match=message):
        dataclasses.replace(st.Job(st.Data("x"), linear()), **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.SGD(lr=0), "optimizer.lr: expected a finite number above 0, found 0"),
        (lambda: st.SGD(lr=float("nan")), "optimizer.lr: expected a finite number above 0, found nan"),
        (lambda: st.SGD(momentum=1), "optimizer.momentum: expected at least 0 and below 1, found 1"),
        (lambda: st.SGD(nesterov=True), "optimizer.nesterov: expected a momentum above 0 with it, and no dampening"),
        (lambda: st.Adam(betas=(1.0, 0.9)), "optimizer.betas: expected at least 0 and below 1, found 1.0; choose such"),
        (lambda: st.AdamW(betas=(0.9, -0.1)), "optimizer.betas: expected at least 0 and below 1, found -0.1"),
        (lambda: st.AdamW(betas=(0.9, float("nan"))), "optimizer.betas: expected at least 0 and below 1, found nan"),
        (lambda: st.AdamW(betas=0.9), r"optimizer.betas: expected two numbers, found 0.9; e.g. \(0.9, 0.999\)"),  # type: ignore[arg-type]
        (lambda: st.Lion(betas=(0.9, 1.5)), "optimizer.betas: expected at least 0 and below 1, found 1.5"),
        (lambda: st.Lion(betas=(0.9, 0.9, 0.9)), "optimizer.betas: expected two numbers"),  # type: ignore[arg-type]
        (lambda: st.Muon(momentum=1.0), "optimizer.momentum: expected at least 0 and below 1, found 1.0"),
        (lambda: st.RMSprop(alpha=1.0), "optimizer.alpha: expected at least 0 and below 1, found 1.0"),
        (lambda: st.Adagrad(lr=-1.0), "optimizer.lr: expected a finite number above 0, found -1.0"),
        (
            lambda: in_a_group(st.Lion(), eps=1e-8),
            r"groups, '\*.bias': expected a setting of Lion: .*, found 'eps'; le",
        ),
        (
            lambda: in_a_group(st.SGD(), betas=(0.5, 0.9)),
            r"groups, '\*.bias': expected a setting of SGD: .*'betas'; le",
        ),
        (
            lambda: in_a_group(st.AdamW(), betas=(0.5, 1.0)),
            r"groups, '\*.bias': optimizer.betas: .*, found 1.0; choose",
        ),
        (lambda: in_a_group(st.AdamW(), lr=0.0), r"groups, '\*.bias': optimizer.lr: expected .* above 0, found 0.0"),
        (lambda: in_a_group(st.Muon(), alpha=0.5), r"groups, '\*.bias': expected a setting of Muon: .*, found 'alpha'"),
        (lambda: st.Average(1.0), "average.decay: expected above 0 and below 1, found 1.0"),
        (lambda: st.Schedule("step"), "schedule.milestones: expected steps for kind 'step', and only for it"),
        (lambda: st.Schedule("one-cycle", milestones=(3,)), "schedule.milestones: expected steps for kind 'step', and"),
        (lambda: st.Schedule("warmup-stable-decay"), "schedule.decay_steps: expected steps for kind 'warmup-sta"),
        (
            lambda: st.Schedule("cosine", decay_steps=9),
            "schedule.decay_steps: expected steps for kind 'warmup-stable-d",
        ),
        (
            lambda: st.Schedule("cosine-restarts"),
            "schedule.cycle_steps: expected steps for kind 'cosine-restarts', and",
        ),
        (lambda: st.Schedule(cycle_steps=9), "schedule.cycle_steps: expected steps for kind 'cosine-res"),
        (
            lambda: st.Schedule("cosin"),
            "schedule.kind: expected one of constant, linear, .*, found 'cosin'; choose one",
        ),
        (lambda: st.Schedule("one-cycle", start=-1), "schedule.start: expected between 0 and 1, found -1"),
        (lambda: st.Schedule("step", milestones=(1, 2), gamma=1e200), "schedule.gamma: expected a product over all mi"),
        (lambda: st.Group("*.bias", lr_factor=-1), "groups.lr_factor: expected a finite number of at least 0"),
        (lambda: st.Clip(norm=-1), "clip.norm: expected a finite number of at least 0, found -1"),
        (lambda: st.Epochs(max_passes=0), "mode.max_passes: expected a whole number of at least 1, found 0"),
        (lambda: st.Online(passes=3), "mode.passes: expected one pass in online mode, found 3; a second pass would"),
        (lambda: st.Schedule(floor=2), "schedule.floor: expected between 0 and 1, found 2"),
    ],
)
def test_promise_10_wrong_parts(make: Callable[[], object], message: str) -> None:
    with pytest.raises(st.ConfigError, match=message):
        make()


def test_more_workers_than_cpus() -> None:
    job = st.Job(st.Data("x"), linear(), workers=64)
    with pytest.raises(
        st.ConfigError, match=r"workers: expected at most 2 on this machine's 2 CPUs at 1 thread\(s\) each, found 64"
    ):
        check_cpus(job, 2)


JOB = """
import torch, streamtrain as st
job = st.Job(st.Data("nowhere"), lambda: torch.nn.Linear(1, 1))
"""
COMMANDS = [
    (
        ["trane"],
        2,
        "streamtrain: expected one of pack, inspect, train, probe, evaluate, predict, *, ui, found 'trane'; see *",
    ),
    (["train", "none.py"], 2, "train: none.py: expected a job file, found no such file; check the path"),
    (["train", "broken.py"], 2, "train: broken.py:1: invalid syntax; repair the job file"),
    (["train", "raises.py"], 2, "train: raises.py failed: ZeroDivisionError: * (*raises.py:1); repair the job"),
    (["train", "empty.py"], 2, "train: empty.py: expected a streamtrain.Job named `job`, found no such name; *"),
    (
        ["train", "job.py", "--optimizer.lr", "fast"],
        2,
        "train: --optimizer.lr: could not convert * 'fast'; see --help",
    ),
    (
        ["train", "job.py", "--optimizer", "adamw", "--optimizer.betas", "0.9", "1.0"],
        2,
        "train: optimizer.betas: expected at least 0 and below 1, found 1.0; *",
    ),
    (["train", "job.py", "--optimizer", "adma"], 2, "train: --optimizer: expected one of *, found adma; choose one*"),
    (
        ["train", "job.py", "--schedule.kind", "one-cicle"],
        2,
        "train: invalid choice 'one-cicle' for argument '--schedule.kind'. Expected one of *; see --help",
    ),
    (
        ["train", "job.py", "--schedule.kind", "cosine-restarts"],
        2,
        "train: schedule.cycle_steps: expected steps for kind 'cosine-restarts', and only for it, found 0; set kind *",
    ),
    (["train", "job.py", "--wrokers", "2"], 2, "train: Unrecognized options: --wrokers, 2; perhaps you meant --work*"),
    (
        ["train", "job.py", "--evaluate.besid"],
        2,
        "train: Unrecognized options: --evaluate.besid; perhaps you meant --evaluate.beside, --evaluate.no-beside; *",
    ),
    (["train", "job.py", "--workers", "0"], 2, "train: workers: expected a whole number of at least 1, found 0; *"),
    (["train", "job.py", "--mode", "offline"], 2, "train: --mode: expected online or epochs, found offline; *"),
    (
        ["train", "job.py"],
        3,
        "train: *nowhere/manifest.json: expected a data set's manifest, found no such file; run *",
    ),
    (["probe", "runs/a", "--examples", "0"], 2, "probe: --examples: expected a whole number of at least 1, found 0; *"),
    (["pack", "none.csv", "out"], 3, "pack: none.csv: expected a folder of images*found no such file or folder; *"),
    (["inspect", "nowhere"], 3, "inspect: *nowhere/manifest.json: expected a data set's manifest*"),
]


@pytest.mark.parametrize(
    ("words", "code", "line"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_promise_10_the_command_line_says_one_line(words: list[str], code: int, line: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "empty.py").write_text("")
    done = streamtrain_forked(*words, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    pattern = line if line.startswith("streamtrain") else f"streamtrain {line}"
    assert fnmatch.fnmatchcase(done.stderr.strip(), pattern.replace("[", "[[]")), done.stderr
