"""`probe --batch-size`: branches from a checkpoint use the same examples, and gain what a plain loop gains."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.cli.run_commands import run_probe
from streamtrain.errors import ConfigError
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.watching.branching import BatchProbe, Branch, Gains, probe_batch_size
from tests.support.datasets import pack_digits
from tests.unit.run.checkpoints.test_going_on import stopped
from tests.unit.run.test_growing_batch import model

JOB = """
import streamtrain as st
from tests.unit.run.test_growing_batch import double, model
job = st.Job(st.Data({data!r}, transform=double), model, optimizer=st.SGD(lr=0.02), batch_size=16, lanes=4,
             precision="float64", mode=st.Epochs(max_passes=4), checkpoints=st.Checkpoints(seconds=0.0), seed=3)
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> st.Job:
    folder = tmp_path_factory.mktemp("branches") / "digits"
    pack_digits(folder, examples=600)
    file = folder.parent / "job.py"
    file.write_text(JOB.format(data=str(folder)))
    return st.load_job(file)


@pytest.fixture
def run_folder(job: st.Job, tmp_path: Path) -> Path:
    """A run that was stopped at step 16."""
    stopped(job, tmp_path, CheckpointFiles(str(tmp_path / "run" / "checkpoints"), 2, print), None, 0)
    return tmp_path / "run"


def gained(job: st.Job, checkpoint: dict[str, torch.Tensor], rows: list[list[int]], rate: float) -> float:
    """Held-out loss before and after a plain loop over these minibatches."""
    from streamtrain.prepare.plan import plan

    plans = plan(job)

    def read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = plans.reader(split).read(0, plans.manifest.splits[split].examples)
        return torch.from_numpy(arrays["image"]).double() / 255, torch.from_numpy(arrays["label"])

    twin = model()
    twin.load_state_dict(
        {name.removeprefix("parameters/"): t for name, t in checkpoint.items() if "parameters/" in name}
    )
    images, labels = read("train")
    held_out, truth = read("validation")
    loss = torch.nn.functional.cross_entropy
    before = loss(twin(held_out), truth).item()
    optimizer = torch.optim.SGD(twin.parameters(), lr=rate)
    for each in rows:
        optimizer.zero_grad()
        loss(twin(images[each]), labels[each]).backward()
        optimizer.step()
    return before - loss(twin(held_out), truth).item()


def test_promise_4_branches_gain_what_a_plain_loop_gains(job: st.Job, run_folder: Path) -> None:
    found = probe_batch_size(job, run_folder, examples=60, repeats=2)
    assert (found.step, found.examples_used, found.batch_size) == (16, 256, 16)
    assert (found.examples, found.repeats) == (128, 2), "60 are rounded up to 64, minibatches of 32"
    assert [(each.batch_size, each.steps) for each in found.branches] == [(8, 16), (16, 8), (32, 4)]
    checkpoint = CheckpointFiles(str(run_folder / "checkpoints"), 2, print).newest()
    assert checkpoint is not None
    for each in found.branches:
        part = each.batch_size // 4
        gains = []
        for start in (256, 320):
            taken = range(start // 4, (start + 64) // 4, part)  # of every lane of 120 examples
            rows = [[lane * 120 + n for lane in range(4) for n in range(at, at + part)] for at in taken]
            gains.append(gained(job, dict(checkpoint.tensors), rows, 0.02 * each.batch_size / 16) / 64)
        assert each.progress == pytest.approx(sum(gains) / 2, rel=1e-9)
        assert each.standard_error > 0
    same = found.branches[1]
    assert same.cost == 0 and same.cost_error == 0
    assert found.branches[2].cost == pytest.approx(1 - found.branches[2].progress / same.progress)


def test_branches_go_over_the_end_of_a_pass_together(job: st.Job, run_folder: Path) -> None:
    """480 examples a pass: from 256 on 224 are left, and the last stretch ends with the fourth pass."""
    found = probe_batch_size(job, run_folder, examples=320, repeats=9)
    assert found.examples <= 4 * 480 - 256 and found.repeats >= 4
    steps = {each.batch_size: each.steps for each in found.branches}
    assert steps[8] >= 2 * steps[16] - found.repeats and steps[16] >= 2 * steps[32] - found.repeats


def test_a_checkpoint_by_name_and_the_command_line(
    job: st.Job, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (run_folder / "checkpoints").glob("0*16.safetensors")
    script = Path(job.data.url).parent / "job.py"
    words = [str(file), "--job", str(script), "--batch-size", "--examples", "32", "--repeats", "1"]
    run_probe([*words, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [each["batch_size"] for each in shown["branches"]] == [8, 16, 32]
    assert {"progress", "standard_error", "cost", "cost_error"} <= shown["branches"][0].keys() and shown["verdict"]
    run_probe(words)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("after 16 updates and 256 examples") and "per example" in lines[1]
    with pytest.raises(ConfigError, match="--log: expected nothing with --batch-size"):
        run_probe([*words, "--log"])


def test_promise_10_nothing_to_branch_from(job: st.Job, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: expected a checkpoint to go on from, found none; name"):
        probe_batch_size(job, tmp_path / "empty")
    with pytest.raises(ConfigError, match="batch_size: expected 16, as the run began, found 32"):
        probe_batch_size(dataclasses.replace(job, batch_size=32), run_folder)
    with pytest.raises(ConfigError, match="probe --batch-size: expected 16,000 examples left .*, found 1,664; name an"):
        probe_batch_size(job, run_folder, examples=16_000)


@pytest.mark.parametrize(("of_repeats", "of_parts"), [(1.0, 0.1), (0.1, 1.0), (0.5, 1.0)])
def test_promise_16_an_error_covers_the_truth_as_often_as_it_says(of_repeats: float, of_parts: float) -> None:
    """Known answer: what a repeat gains differs, and what a part of the held-out examples shows of it."""
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        repeats = generator.normal(0, of_repeats, (4, 1))
        parts = generator.normal(0, of_parts * 8, (1, 64))
        rows = 1.0 + repeats + parts
        gains = Gains(tuple(rows.mean(1)), tuple(rows.mean(0)), (10.0,) * 64)
        covered += abs(gains.mean - 1.0) < gains.standard_error
    assert 0.64 < covered / 1000 < 0.75


def probed(twice: tuple[float, float], same: tuple[float, float] = (1.0, 0.01)) -> str:
    branches = (Branch(16, 4, *same, 0.0, 0.0), Branch(32, 2, 1.0, 0.01, *twice))
    return BatchProbe(1, 16, 16, 64, 4, branches).verdict


def test_promise_16_it_is_said_only_where_the_numbers_bear_it() -> None:
    assert "it may double" in probed((0.02, 0.03)) and "leave it" in probed((0.2, 0.04))
    assert "not told from 10%" in probed((0.05, 0.03)) and "not told" in probed((0.15, 0.03))
    assert "no progress" in probed((0.0, 0.0), (1.0, 0.6)) and "not told" in probed((0.0, float("nan")))
