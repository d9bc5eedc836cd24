"""`evaluate` and `predict`: the numbers of the run itself, each example once, and a file that is whole or not there."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import streamtrain as st
from streamtrain.cli.command import main
from streamtrain.prepare.jobfile import load_job
from streamtrain.run.afterwards import predictions
from streamtrain.run.afterwards.predictions import predict
from streamtrain.run.afterwards.risks import evaluate
from tests.support.datasets import pack_digits

JOB = """
import torch
import streamtrain as st

def model():
    torch.manual_seed(0)
    layers = (torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.5))
    return torch.nn.Sequential(torch.nn.Linear(64, 16), *layers, torch.nn.Linear(16, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float().flatten(1) / 255}

def weighted(output, target):
    weights = 1.0 + target.float()
    return st.Weighted(weights * torch.nn.functional.cross_entropy(output, target, reduction="none"), weights)

job = st.Job(
    st.Data("digits", transform=scaled), model, mode=st.Epochs(max_passes=2), batch_size=48,
    metrics={"perplexity": st.OfMeans(lambda mean: 2.0**mean, "loss")}, tracking=st.Tracking(enabled=ENABLED))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> st.Job:
    monkeypatch.chdir(tmp_path)
    pack_digits(tmp_path / "digits", examples=900)
    (tmp_path / "job.py").write_text(JOB.replace("ENABLED", "False"))
    return load_job(tmp_path / "job.py")


@pytest.fixture
def run(job: st.Job) -> st.Result:
    return st.train(job, inline=True, quiet=True)


def rows(file: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    return found


def test_evaluate_gives_the_risks_that_the_run_measured(job: st.Job, run: st.Result) -> None:
    found = evaluate(job, run.folder, "digits")
    assert run.test is not None and found.step == run.chosen.step
    assert found.splits["test"] == run.test, "to the bit"
    assert found.splits["validation"] == run.chosen.generalization
    assert found.splits["train"].loss.count == 720 and list(found.splits) == ["train", "validation", "test"]
    assert found.splits["test"].metrics["perplexity"].mean == pytest.approx(2.0**run.test.loss.mean)


def test_batches_change_no_number_beyond_rounding(job: st.Job, run: st.Result, tmp_path: Path) -> None:
    whole = evaluate(job, run.folder, "digits", splits=("test",)).splits["test"]
    pieces = evaluate(job, run.folder, "digits", splits=("test",), batch_size=1).splits["test"]
    for name, moments in whole.quantities.items():
        assert pieces.quantities[name].mean == pytest.approx(moments.mean, rel=1e-5), name
        assert pieces.quantities[name].standard_error == pytest.approx(moments.standard_error, rel=1e-4), name
    sizes: list[int] = []

    def noted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        sizes.append(len(batch["image"]))
        return {**batch, "image": batch["image"].float().flatten(1) / 255}

    small = dataclasses.replace(job, data=dataclasses.replace(job.data, transform=noted), micro_batch=1)
    assert evaluate(small, run.folder, "digits", splits=("test",)).splits["test"] == pieces
    assert set(sizes) == {1}, "micro_batch bounds the memory"


def test_predictions_are_the_models_of_each_example_once(job: st.Job, run: st.Result, tmp_path: Path) -> None:
    written = predict(job, run.folder, "digits", tmp_path / "out.parquet")
    found = rows(tmp_path / "out.parquet")
    assert written.examples == 900 == len(set(found["key"])) and written.columns == tuple(found)
    assert tuple(found) == ("key", "split", "number", "loss", "error", "output")
    assert run.test is not None
    test = [index for index, split in enumerate(found["split"]) if split == "test"]
    assert [found["number"][index] for index in test] == list(range(90))
    assert np.mean([found["loss"][index] for index in test]) == pytest.approx(run.test.loss.mean, rel=1e-6)
    assert np.mean([found["error"][index] for index in test]) == pytest.approx(run.test.error.mean)
    plain = job.model()
    plain.load_state_dict(run.parameters)
    images = dict(_images(tmp_path))
    at = test[7]
    with torch.no_grad():
        expected = plain.eval()(images[found["key"][at]].float().reshape(1, 64) / 255)[0]
    assert torch.allclose(torch.tensor(found["output"][at]), expected, atol=1e-6)


def _images(folder: Path) -> list[tuple[str, torch.Tensor]]:
    from streamtrain.prepare.plan import plan

    reader = plan(load_job(folder / "job.py")).reader("test")
    arrays = reader.read(0, len(reader))
    return [(reader.locate(number)[2], torch.as_tensor(arrays["image"][number])) for number in range(len(reader))]


def test_weights_and_several_outputs_have_columns_of_their_own(job: st.Job, run: st.Result, tmp_path: Path) -> None:
    import sys

    weighted = sys.modules[job.model.__module__].weighted

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = job.model()

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            output = self.inner(image)
            return {"logits": output, "cache": [output], "none": None, "largest": output.amax(1).to(torch.bfloat16)}

    inner = {f"inner.{name}": tensor for name, tensor in run.parameters.items()}
    from safetensors.torch import save_file

    save_file(inner, tmp_path / "two.safetensors")
    two = dataclasses.replace(
        job,
        model=Two,
        loss=lambda output, target: weighted(output["logits"], target),
        error=lambda output, target: (output["logits"].argmax(1) != target).float(),
        metrics={},
    )
    written = predict(two, tmp_path / "two.safetensors", "digits", tmp_path / "two.parquet", splits=("test",))
    assert written.left_out == ("output_cache (list)",) and str(written).endswith("no tensors: output_cache (list)")
    found = rows(tmp_path / "two.parquet")
    assert tuple(found)[3:] == ("loss", "error", "weight", "output_logits", "output_largest")
    plain = rows(predict(job, run.folder, "digits", tmp_path / "one.parquet", splits=("test",)).file)
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-5), "of each example, without its weight"
    assert set(found["weight"]) <= {float(each) for each in range(1, 11)}


def test_what_is_half_written_never_looks_whole(
    job: st.Job, run: st.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results" / "out.parquet"
    out.parent.mkdir()
    monkeypatch.setattr(predictions, "GROUP_BYTES", 1)
    seen: list[list[str]] = []

    def fails_late(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append([file.name for file in out.parent.iterdir()])
        if len(seen) == 40:
            raise ValueError("broken here")
        return {**batch, "image": batch["image"].float().flatten(1) / 255}

    broken = dataclasses.replace(job, data=dataclasses.replace(job.data, transform=fails_late))
    with pytest.raises(st.JobError, match="data.transform"):
        predict(broken, run.folder, "digits", out)
    assert list(out.parent.iterdir()) == []
    assert len(seen[-1]) == 1 and seen[-1][0].endswith(".partial"), "it was written on the way"
    assert predict(job, run.folder, "digits", out).examples == 900
    assert pq.read_metadata(out).num_row_groups > 10
    before = out.read_bytes()
    with pytest.raises(st.ConfigError, match=r"out\.parquet: expected no such file yet, found one; name another"):
        predict(job, run.folder, "digits", out)
    assert out.read_bytes() == before
    with pytest.raises(st.ConfigError, match="expected a folder, found no such folder"):
        predict(job, run.folder, "digits", tmp_path / "nowhere" / "out.parquet")


def test_what_does_not_fit_is_refused_in_one_line(job: st.Job, run: st.Result, tmp_path: Path) -> None:
    np.savez(tmp_path / "others.npz", x=np.zeros((20, 3)))
    st.pack(tmp_path / "others.npz", tmp_path / "others")
    wide = dataclasses.replace(job, model=lambda: torch.nn.Linear(64, 10))
    grouped = dataclasses.replace(job, loss_over="minibatch")
    out = tmp_path / "out.parquet"
    wrong: list[tuple[st.Job, str, dict[str, Any], str]] = [
        (job, "digits", {"splits": ("exam",)}, "^--splits: expected one of train, validation, test, .*, found exam"),
        (job, "nowhere", {}, "nowhere"),
        (job, "others", {}, "image"),
        (wide, "digits", {}, "expected the names and shapes of the job's model, found no weight; no bias; 0.bias,"),
        (grouped, "digits", {"batch_size": 4}, '^--batch-size: expected none with loss_over="minibatch", found 4'),
    ]
    for each, data, how, message in wrong:
        for call in (
            lambda each=each, data=data, how=how: evaluate(each, run.folder, data, **how),
            lambda each=each, data=data, how=how: predict(each, run.folder, data, out, **how),
        ):
            with pytest.raises((st.ConfigError, st.DataError), match=message) as raised:
                call()
            assert "\n" not in str(raised.value) and not out.exists()
    of_first = lambda output, target: output[0].mean(1)  # noqa: E731
    odd = dataclasses.replace(job, model=lambda: Sums(job.model()), loss=of_first, error=of_first, metrics={})
    save = {f"inner.{name}": tensor for name, tensor in run.parameters.items()}
    from safetensors.torch import save_file

    save_file(save, tmp_path / "odd.safetensors")
    with pytest.raises(st.JobError, match=r"^predict, output_1: expected a tensor of \d+ examples, found shape \(\)"):
        predict(odd, tmp_path / "odd.safetensors", "digits", out)
    assert not out.exists()


class Sums(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.inner(image)
        return output, output.sum()


def test_the_commands_find_the_job_by_the_runs_journal(job: st.Job, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "job.py").write_text(JOB.replace("ENABLED", "True, uri='sqlite:///mlflow.db', log_model=False"))
    with contextlib.suppress(SystemExit):  # MLflow may be slow to take it all; the journal is what counts
        command(["train", "job.py", "--inline", "--seed", "3"])
    (folder,) = map(str, (tmp_path / "runs").glob("job-epochs-*"))
    trained = json.loads(Path(folder, "result.json").read_text())
    capsys.readouterr()
    command(["evaluate", folder, "digits", "--splits", "test", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == trained["chosen_step"]
    assert found["splits"]["test"] == pytest.approx({**trained["test_risk"], "examples": 90})
    command(["evaluate", folder, "digits"])
    shown = capsys.readouterr().out
    assert "train" in shown and "±" in shown and "standard errors of independent examples" in shown
    command(["predict", folder, "digits", "out.parquet", "--splits", "test"])
    assert capsys.readouterr().out.startswith("out.parquet: 90 examples, key, split, number, loss, error, output")
    parameters = f"{folder}/parameters.safetensors"
    (Path(folder) / "journal.jsonl").unlink()
    with pytest.raises(SystemExit) as stopped:
        command(["evaluate", parameters, "digits"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "expected a run that `streamtrain train` began" in said
    command(["evaluate", parameters, "digits", "--job", "job.py", "--splits", "test", "--json"])
    assert json.loads(capsys.readouterr().out)["splits"]["test"]["loss"] == found["splits"]["test"]["loss"]


def command(words: list[str]) -> None:
    import sys

    before = sys.argv
    sys.argv = ["streamtrain", *words]  # which the run's card tells
    try:
        main(words)
    finally:
        sys.argv = before
