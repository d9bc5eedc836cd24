"""Probes of checkpoints, on the way of a run, and into MLflow: the same as of the parameters, and no bit changes."""

import dataclasses
import io
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.cli.command import main
from streamtrain.errors import WorkerLost
from streamtrain.prepare.plan import plan
from streamtrain.run.checkpoints.checkpoint_files import CheckpointFiles
from streamtrain.run.checkpoints.keeper import Keeper
from streamtrain.run.controller import Controller
from streamtrain.run.folder import RunFolder
from streamtrain.run.watching.probing import command_of
from streamtrain.track.mlflow import MlflowTracker
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import RunCard
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, PlainFleet, run

JOB = """
import torch
import streamtrain as st

def scaled(batch):
    return {**batch, "image": batch["image"].float().flatten(1) / 15}

def model():
    return torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 10))

job = st.Job(st.Data("digits", transform=scaled), model, mode=st.Online(), optimizer=st.SGD(lr=0.5), batch_size=100)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> st.Job:
    monkeypatch.chdir(tmp_path)
    pack_digits(tmp_path / "digits", examples=900)
    (tmp_path / "job.py").write_text(JOB)
    return dataclasses.replace(st.load_job(tmp_path / "job.py"), probe_examples=300)


def same(one: st.Probe, other: st.Probe) -> bool:
    return dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_checkpoint_is_probed_as_the_parameters_that_it_holds(
    average: float | None, job: st.Job, tmp_path: Path
) -> None:
    schedule = st.Schedule("cosine", warmup_steps=2)
    job = dataclasses.replace(
        job, optimizer=st.SGD(lr=0.5, momentum=0.9), average=st.Average(average), schedule=schedule
    )
    folder, place = tmp_path / "run", tmp_path / "run" / "checkpoints"
    place.mkdir(parents=True)
    job = dataclasses.replace(job, checkpoints=st.Checkpoints(seconds=0.0))
    with Keeper(job, {}, CheckpointFiles(str(place), 2, print)) as keeper:
        result, fleet = run(job, folder, keeper=keeper)
        keeper._writer.submit(lambda: None).result()  # what was begun is written: it takes one at a time
        keeper._due = 0.0
        keeper.keep(fleet, keeper.begin()[0], {})
    (folder / "result.json").write_text(json.dumps(result.summary()))
    whole = st.probe(job, folder, examples=300, iterations=5)
    assert whole.step == 8 and whole.curvature.learning_rate == 0.0, "the schedule has ended"
    newest = sorted(place.glob("[0-9]*.safetensors"))[0]
    at = int(newest.stem)
    before = st.probe(job, newest, examples=300, iterations=5)
    assert before.step == at < 8 and before.curvature.learning_rate == pytest.approx(
        0.25 if at == 0 else 0.5 * (1 + np.cos(np.pi * (at - 2) / 5)) / 2
    )
    tensors = {n.partition("/")[2]: t for n, t in keeper.start[0].items() if n.startswith(("average", "buffers"))}  # type: ignore[index]
    assert average is None or all(torch.equal(tensors[n], t) for n, t in result.parameters.items())
    for file in (folder / "parameters.safetensors", folder / "result.json"):
        file.unlink()
    last = max(place.glob("[0-9]*.safetensors"))
    assert same(st.probe(job, folder, examples=300), st.probe(job, last, examples=300))


@pytest.mark.figures
def test_probes_on_the_way_are_those_of_the_state_and_change_no_bit(job: st.Job, tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    without, _ = run(job, tmp_path)
    notebook = Notebook()
    probed, _ = run(dataclasses.replace(job, probe_every=3), tmp_path / "with", notebook)
    assert all(torch.equal(without.parameters[name], tensor) for name, tensor in probed.parameters.items())
    assert without.evaluations == probed.evaluations
    curves = notebook.named("probe/gradient_curvature")
    assert [step for step, _ in curves] == [2, 5]
    fleet = PlainFleet(plan(job))
    fleet.advance(6)
    saved = tmp_path / "six.safetensors"
    from streamtrain.run.checkpoints.parameters import save_parameters

    save_parameters(saved, fleet.snapshot())
    found = st.probe(job, saved, examples=300, iterations=20)
    assert curves[1][1] == found.curvature.gradient_curvature
    written = json.loads((tmp_path / "with" / "probes" / "probe_000000006.json").read_text())
    assert written["spectrum"]["largest"] == found.spectrum.largest and written["step"] == 6
    assert "after 6 updates: loss" in (tmp_path / "with" / "probes" / "probe_000000006.txt").read_text()
    assert (tmp_path / "with" / "probes" / "probe_000000003.png").stat().st_size > 10_000


def test_a_bound_on_measuring_leaves_out_all_probes_but_the_first(job: st.Job, tmp_path: Path) -> None:
    notebook = Notebook()
    run(dataclasses.replace(job, probe_every=1, evaluate=st.Evaluate(1e-9)), tmp_path, notebook)
    assert (
        [step for step, _ in notebook.named("probe/seconds")]
        == [0]
        == [step for step, _ in notebook.named("probe/fraction_of_time")]
    )


class OnceBent(torch.autograd.Function):
    """Has a gradient, whose own gradient nobody wrote."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return gradient * 2


class NoHessian(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return OnceBent.apply(super().forward(x))  # type: ignore[no-untyped-call, no-any-return]


def test_promise_8_a_probe_that_fails_is_one_line_and_the_run_goes_on(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, model=lambda: NoHessian(64, 10), probe_every=2)
    plans, said = plan(job), io.StringIO()
    controller = Controller(plans, PlainFleet(plans), notebook := Notebook(), Terminal(said), tmp_path, Keeper(job, {}))
    assert controller.run().evaluations[-1].step == 8 and not notebook.named("probe/loss")
    lines = [line for line in said.getvalue().splitlines() if "probe" in line]
    assert len(lines) == 1 and lines[0].startswith("no probe after 2 updates, and none later: RuntimeError: no second")


def test_a_worker_that_is_lost_while_a_probe_asks_for_the_state_is_not_taken_for_a_failed_probe(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, notebook, lost = dataclasses.replace(job, probe_every=3), Notebook(), []
    snapshot = PlainFleet.snapshot

    def at_first_lost(self: PlainFleet) -> dict[str, torch.Tensor]:
        if not lost:
            lost.append(self)
            raise WorkerLost("worker 0 died")
        return snapshot(self)

    monkeypatch.setattr(PlainFleet, "snapshot", at_first_lost)
    run(job, tmp_path, notebook)
    assert lost and [step for step, _ in notebook.named("probe/loss")] == [2, 5]


def test_the_command_finds_the_runs_job_and_adds_the_probe_to_its_run_once(
    job: st.Job, store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, folder = store_uri, tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    tracker = MlflowTracker(uri)
    command = "streamtrain train job.py --optimizer.lr 0.25 --json --resume"
    tracker.begin(RunCard("one", "tests", {}, {"command": command}, ()), folder)
    result, _ = run(dataclasses.replace(job, optimizer=st.SGD(lr=0.25)), folder, tracker)
    (folder / "result.json").write_text(json.dumps(result.summary()))
    assert tracker.finish("finished", "all used") is None
    for _ in range(2):
        main(["probe", "runs/one", "--log", "--examples", "300"])
    assert capsys.readouterr().out.startswith("after 8 updates: loss ")
    client = mlflow.MlflowClient(uri)
    logged = client.get_run(str(tracker.run_id))
    (point,) = client.get_metric_history(str(tracker.run_id), "probe/measured_change")
    assert point.step == 7 and logged.data.tags["probe.point"] == "slope" and logged.info.status == "FINISHED"
    found = st.probe(dataclasses.replace(job, optimizer=st.SGD(lr=0.25)), folder, examples=300)
    assert point.value == found.curvature.measured and found.curvature.learning_rate == 0.25
    artifacts = [file.path for file in client.list_artifacts(str(tracker.run_id), "probes")]
    assert artifacts == [f"probes/probe_000000008.{end}" for end in ("json", "png", "txt")]
    Path("six.safetensors").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["probe", "six.safetensors"])
    assert stopped.value.code == 2
    assert "expected a run that `streamtrain train` began, found no journal.jsonl; name" in capsys.readouterr().err


def test_promise_10_a_command_with_a_secret_is_not_guessed(tmp_path: Path) -> None:
    entry = {"kind": "begin", "card": {"tags": {"command": "streamtrain train job.py --data.url s3://***@b/d"}}}
    (tmp_path / "journal.jsonl").write_text(json.dumps(entry) + "\n")
    assert RunFolder.of(tmp_path / "checkpoints" / "1.safetensors").path == tmp_path
    with pytest.raises(st.ConfigError, match=r"began, found streamtrain .*; name the job file, --job JOB.py"):
        command_of(RunFolder(tmp_path))
