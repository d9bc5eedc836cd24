"""`python -m tests.gpu` as far as a CPU goes; and that it, and inline training, need neither Ray nor MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGE = ("ray", "mlflow", "matplotlib", "pandas", "scipy", "cv2", "simplejpeg", "aiohttp", "datasets")
"""What the script does without, in all its processes."""


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has none of these."""
    folder = tmp_path / "taken away"
    folder.mkdir()
    for name in LARGE:
        (folder / f"{name}.py").write_text(f"raise ImportError({name + ' is taken away'!r})")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_the_gpu_script_runs_on_the_cpu_without_the_large_dependencies(without: dict[str, str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--size", "tiny", "--no-compile"]
    done = subprocess.run(words, cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert set(report["checks"]) == {"same_bits_twice", "agreement", "two_processes"}
    assert set(report["not_run"]) == {"waits_for_nothing", "memory"}
    ratios = ("gpu_vs_plain", "gpu_vs_dataloader")
    assert {f"{ratio}{of}" for ratio in ratios for of in ("", "_images", "_tokens")} == set(report["ratios"])
    assert len(report["checks"]["agreement"]) == 12, "11 cases, and whether they agree"
    assert sum("lane" in name for name in report["checks"]["two_processes"]) == 8


def test_the_gpu_script_says_so_where_there_is_no_gpu(without: dict[str, str]) -> None:
    words = [sys.executable, "-m", "tests.gpu"]
    done = subprocess.run(words, cwd=ROOT, env={**without, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "tests.gpu: expected a CUDA GPU, found none; use --device cpu --size tiny to try the script\n"


def test_a_disagreement_is_a_failed_check(without: dict[str, str], tmp_path: Path) -> None:
    """The plain loop with another rate: the check that compares both has to say so, and the exit code too."""
    script = (
        "import runpy, sys, torch\n"
        "rule = torch.optim.SGD\n"
        "torch.optim.SGD = lambda parameters, lr, momentum: rule(parameters, lr=1.1 * lr, momentum=momentum)\n"
        "sys.argv = ['tests.gpu', 'agreement', '--device', 'cpu', '--size', 'tiny', '--no-compile']\n"
        "runpy.run_module('tests.gpu', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["checks"]["agreement"]
    assert found["ok"] is False and found["mlp-float32-sgd"] > 0.01 > found["mlp-float32-adamw"]


def test_inline_training_needs_neither_ray_nor_mlflow(without: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import numpy as np, torch, streamtrain as st\n"
        "draw = np.random.default_rng(0)\n"
        "np.savez('raw.npz', x=draw.normal(size=(60, 4)).astype('f'), y=draw.integers(0, 3, 60))\n"
        "st.pack('raw.npz', 'packed')\n"
        "job = st.Job(st.Data('packed', inputs=('x',), target='y'), lambda: torch.nn.Linear(4, 3), batch_size=8,\n"
        "             mode=st.Epochs(max_passes=2), lanes=2, tracking=st.Tracking(enabled=False))\n"
        "print(st.train(job, inline=True, quiet=True).passes)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) == 2, done.stdout + done.stderr
