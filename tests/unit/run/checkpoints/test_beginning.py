"""Runs that go on beyond their end, and branches: the bits of a longer run, lineage, and the old run untouched."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import streamtrain as st
from streamtrain.cli.flags import beginning_of
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from tests.support.command import streamtrain
from tests.support.datasets import pack_digits
from tests.support.small_job import digest
from tests.unit.run.checkpoints.test_going_on import model
from tests.unit.run.test_controller import scaled


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits", examples=480)
    return st.Job(
        st.Data(str(tmp_path / "digits"), transform=scaled),
        model,
        optimizer=st.SGD(lr=0.1, momentum=0.9),
        mode=st.Epochs(max_passes=3, patience=9),
        batch_size=48,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path / "runs")),
    )


def passes(job: st.Job, count: int, patience: int = 9) -> st.Job:
    return dataclasses.replace(job, mode=st.Epochs(max_passes=count, patience=patience))


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def state(run: Path) -> dict[str, torch.Tensor]:
    newest = CheckpointFiles(str(run / "checkpoints"), 1, print).newest()
    assert newest is not None
    return {name: tensor for name, tensor in newest.tensors.items() if not name.startswith("best/")}


def train(job: st.Job, **how: Any) -> st.Result:
    return st.train(job, inline=True, quiet=True, **how)


def test_more_passes_give_the_bits_of_a_run_that_had_them(job: st.Job) -> None:
    ended = train(job)
    longer = train(job, resume=str(ended.folder), more_passes=2)
    whole = train(passes(job, 5))
    assert longer.folder == ended.folder and longer.passes == 5
    assert longer.stop_reason == "mode.max_passes = 5 reached"
    assert digest(state(longer.folder)) == digest(state(whole.folder))
    assert [each.generalization.loss.mean for each in longer.evaluations] == [
        each.generalization.loss.mean for each in whole.evaluations
    ]
    assert json.loads((longer.folder / "result.json").read_text())["passes"] == 5
    assert train(job, resume=str(ended.folder), more_passes=1).passes == 6, "than it was given so far"


def test_patience_that_was_used_up_counts_anew(job: st.Job) -> None:
    still = dataclasses.replace(job, optimizer=st.SGD(lr=1e-12), mode=st.Epochs(max_passes=4, patience=2))
    ended = train(still)
    assert "no better validation error in 2 passes" in ended.stop_reason
    longer = train(still, resume=str(ended.folder), more_passes=9)
    assert longer.passes == ended.passes + 2
    assert "no better validation error in 2 passes" in longer.stop_reason
    assert longer.chosen.step == ended.chosen.step and digest(longer.parameters) == digest(ended.parameters)


def test_a_branch_without_other_settings_has_the_bits_of_its_run(job: st.Job) -> None:
    ended = train(job)
    before = contents(ended.folder)
    branch = train(passes(job, 5), resume=str(ended.folder), branch=True)
    assert contents(ended.folder) == before, "the old run is untouched"
    assert branch.folder != ended.folder and branch.passes == 5
    assert digest(state(branch.folder)) == digest(state(train(passes(job, 5)).folder))


def test_a_branch_takes_other_settings_from_a_checkpoint_that_is_named(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=0.0, keep=100))
    ended = train(job)
    first, *_ = sorted((ended.folder / "checkpoints").glob("0*.safetensors"))
    changed = dataclasses.replace(job, optimizer=st.SGD(lr=0.01, momentum=0.9), clip=st.Clip(norm=1.0))
    branch = train(changed, resume=str(first), branch=True)
    assert branch.passes == 3 and digest(branch.parameters) != digest(ended.parameters)
    still = train(dataclasses.replace(changed, optimizer=st.SGD(lr=1e-6, momentum=0.9)), resume=True, branch=True)
    newest = load_file(branch.folder / "parameters.safetensors")
    assert still.folder not in (branch.folder, ended.folder) and newest.keys() == still.parameters.keys()


def test_a_branch_is_a_run_of_its_own_in_mlflow(job: st.Job, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = dataclasses.replace(job, tracking=dataclasses.replace(job.tracking, enabled=True, uri=uri, log_model=False))
    ended = train(job)
    files = CheckpointFiles(str(ended.folder / "checkpoints"), 1, print)
    last = files.newest()
    assert last is not None  # MLflow may have named so short a run only after its last checkpoint
    files.write(dataclasses.replace(last, run_id=ended.run_id))
    branch = train(passes(job, 4), resume=str(ended.folder), branch=True)
    longer = train(job, resume=str(ended.folder), more_passes=1)
    assert longer.run_id == ended.run_id and branch.run_id not in (None, ended.run_id)
    assert branch.run_id is not None and ended.run_id is not None
    client = MlflowClient(uri)
    tags = client.get_run(branch.run_id).data.tags
    step = str(ended.evaluations[-1].step)
    assert {name: value for name, value in tags.items() if name.startswith("lineage.")} == {
        "lineage.branch_of": ended.folder.name,
        "lineage.run_id": ended.run_id,
        "lineage.step": step,
    }
    old = client.get_run(ended.run_id)
    assert old.info.status == "FINISHED" and old.data.tags["resumed.mode.max_passes"] == "4"
    assert len(client.get_metric_history(ended.run_id, "Gap/loss")) == 4, "each once"


def test_what_cannot_go_on_is_refused_in_one_line(job: st.Job, tmp_path: Path) -> None:
    ended = train(job)
    run = str(ended.folder)
    online = dataclasses.replace(job, mode=st.Online())
    ends = dataclasses.replace(job, schedule=st.Schedule("cosine"))
    of_cosine = str(train(ends).folder)
    adam = dataclasses.replace(job, optimizer=st.AdamW())
    larger = dataclasses.replace(job, batch_size=96)
    wrong: list[tuple[st.Job, dict[str, Any], str]] = [
        (job, {"resume": run}, "expected a run that has not ended, found result.json; start a new run"),
        (job, {"more_passes": 2}, "^--more-passes: expected a run to go on from, found 'none'; add --resume"),
        (job, {"branch": True}, "^--branch: expected a run to go on from, found 'none'; add --resume"),
        (online, {"resume": run, "more_passes": 2}, "^--more-passes: expected a run of many passes"),
        (ends, {"resume": of_cosine, "more_passes": 2}, "mode.max_passes: expected 3, as the run began, found 5"),
        (larger, {"resume": run, "branch": True}, "^--branch, batch_size: expected 48, as the run has it, found 96"),
        (
            adam,
            {"resume": run, "branch": True},
            "^--branch, optimizer: expected one that keeps momentum and",
        ),
        (job, {"resume": "gone", "branch": True}, "^--branch, gone: expected a checkpoint to go on from, found none"),
        (
            job,
            {"resume": f"{run}/checkpoints/000000009999.safetensors", "branch": True},
            "9999.safetensors: expected",
        ),
        (job, {"resume": True, "branch": True, "name": "never"}, "runs named never-epochs: expected a checkpoint to"),
    ]
    for each, how, message in wrong:
        with pytest.raises(st.ConfigError, match=message) as raised:
            train(each, **how)
        assert "\n" not in str(raised.value)
    assert (ended.folder / "result.json").exists(), "what is refused changes nothing"
    for file in (ended.folder / "checkpoints").glob("*"):
        file.unlink()
    for how in ({"branch": True}, {"more_passes": 1}):
        with pytest.raises(st.ConfigError, match="expected a checkpoint to go on from, found none; name a run, or a"):
            train(job, resume=run, **how)
    assert (ended.folder / "result.json").exists()


def test_flags_that_say_where_a_run_begins() -> None:
    beginning, others = beginning_of(["--resume", "runs/x", "--branch", "--optimizer.lr", "0.1", "--json"])
    assert (beginning.resume, beginning.branch, others) == ("runs/x", True, ["--optimizer.lr", "0.1"])
    beginning, others = beginning_of(["--resume=runs/y", "--more-passes=3", "--inline", "--workers", "2"])
    assert (beginning.resume, beginning.more_passes, others) == ("runs/y", 3, ["--workers", "2"])
    beginning, others = beginning_of(["--resume", "--workers", "2"])
    assert (beginning.resume, others) == (True, ["--workers", "2"])
    for wrong in (["--resume", "--more-passes"], ["--resume", "--more-passes", "0"], ["--resume", "--more-passes=x"]):
        with pytest.raises(st.ConfigError, match="^--more-passes: expected a number from 1 on, found"):
            beginning_of(wrong)


def test_a_branch_by_the_command_line(job: st.Job, tmp_path: Path) -> None:
    ended = train(job)
    (tmp_path / "small.py").write_text(
        "import streamtrain as st\n"
        "from tests.unit.run.checkpoints.test_going_on import model\n"
        "from tests.unit.run.test_controller import scaled\n"
        f"job = st.Job(st.Data({str(tmp_path / 'digits')!r}, transform=scaled), model, batch_size=48,\n"
        "    optimizer=st.SGD(lr=0.1, momentum=0.9), mode=st.Epochs(max_passes=3, patience=9),\n"
        "    tracking=st.Tracking(enabled=False))\n"
    )
    words = ("train", "small.py", "--inline", "--json", "--resume", str(ended.folder), "--branch")
    done = streamtrain(*words, "--optimizer.lr", "0.01", "--mode.max-passes", "4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passes"] == 4 and found["folder"] != str(ended.folder)
    done = streamtrain(*words, "--batch-size", "96", folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
