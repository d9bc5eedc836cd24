"""`--from`: a run begins with the parameters of another or of a file; what does not fit is refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import streamtrain as st
from streamtrain.cli.flags import beginning_of
from streamtrain.errors import Interrupted
from streamtrain.run.checkpoints.keeper import Keeper
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
        optimizer=st.SGD(lr=1e-12),  # so small that it changes no bit
        mode=st.Epochs(max_passes=1),
        batch_size=48,
        tracking=st.Tracking(enabled=False, folder=str(tmp_path / "runs")),
    )


def train(job: st.Job, **how: Any) -> st.Result:
    return st.train(job, inline=True, quiet=True, **how)


def trained_only(parameters: dict[str, torch.Tensor]) -> str:
    return digest({name: tensor for name, tensor in parameters.items() if name.endswith(("weight", "bias"))})


def with_frozen() -> torch.nn.Module:
    made = model()
    made[1].weight.requires_grad_(False)
    return made


def test_a_run_begins_with_the_parameters_that_another_kept(job: st.Job, tmp_path: Path) -> None:
    other = train(dataclasses.replace(job, optimizer=st.SGD(lr=0.1), seed=7))
    for place in (other.folder, str(other.folder), other.folder / "parameters.safetensors"):
        begun = train(job, start_from=place)
        assert trained_only(begun.parameters) == trained_only(other.parameters)
        assert begun.evaluations[0].step == 8, "a run of its own, from step 0"
    assert trained_only(train(job).parameters) != trained_only(other.parameters)


def test_float64_parameters_keep_their_bits(job: st.Job) -> None:
    double = dataclasses.replace(job, precision="float64", optimizer=st.SGD(lr=1e-30))
    other = train(dataclasses.replace(double, optimizer=st.SGD(lr=0.1), seed=7))
    assert trained_only(train(double, start_from=other.folder).parameters) == trained_only(other.parameters)


def test_frozen_parameters_come_along_also_in_a_branch_and_a_second_run(job: st.Job, tmp_path: Path) -> None:
    pretrained = train(dataclasses.replace(job, optimizer=st.SGD(lr=0.1), seed=7))
    frozen = dataclasses.replace(job, model=with_frozen)
    tuned = train(frozen, start_from=pretrained.folder)
    (tuned.folder / "parameters.safetensors").unlink()  # as of a run that has not ended
    branch = train(dataclasses.replace(frozen, mode=st.Epochs(max_passes=2)), resume=str(tuned.folder), branch=True)
    second = train(frozen, start_from=tuned.folder)
    for each in (tuned, branch, second):
        assert torch.equal(each.parameters["1.weight"], pretrained.parameters["1.weight"])


def test_a_run_that_stopped_before_its_first_checkpoint_begins_there_again(
    job: st.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train(dataclasses.replace(job, optimizer=st.SGD(lr=0.1), seed=7))

    def stop(self: Keeper, *_: object) -> None:
        raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "keep", stop)
        with pytest.raises(Interrupted):
            train(job, start_from=other.folder, name="again")
    again = train(job, resume=True, name="again")
    assert trained_only(again.parameters) == trained_only(other.parameters)


def test_what_does_not_fit_is_refused_by_name_and_shape(job: st.Job, tmp_path: Path) -> None:
    good = model().state_dict()
    missing = {name: tensor for name, tensor in good.items() if name != "1.bias"}
    more = {**good, "head.weight": torch.zeros(3)}
    narrow = {**good, "1.weight": torch.zeros(16, 64)}
    renamed = {f"module.{name}": tensor for name, tensor in good.items()}
    wrong = {
        "missing": (missing, r"found no 1\.bias; give parameters of this model, or rename them in the file"),
        "more": (more, r"found head\.weight, which the model has not; give"),
        "narrow": (narrow, r"found 1\.weight of shape \(16, 64\), not \(32, 64\); give"),
        "renamed": (renamed, r"found no 1\.weight; no 1\.bias; .*, and \d+ more; give"),
    }
    for name, (tensors, message) in wrong.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file)
        with pytest.raises(st.ConfigError, match=message) as raised:
            train(job, start_from=file)
        assert str(raised.value).startswith(f"--from, {file}: expected the names and shapes of the job's model")
    torch.save(good, tmp_path / "weights.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(st.ConfigError, match=r"expected a \.safetensors file, since a .*, found \.pt; make"):
        train(job, start_from=tmp_path / "weights.pt")
    for file in ("broken.safetensors", "nowhere"):
        with pytest.raises(st.ConfigError, match="expected saved parameters, found"):
            train(job, start_from=tmp_path / file)
    with pytest.raises(st.ConfigError, match="^--from: expected none with --branch"):
        train(job, start_from=tmp_path / "missing.safetensors", resume="it", branch=True)
    assert not (tmp_path / "runs").exists(), "nothing has begun"


def test_lineage_and_the_flag(job: st.Job, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    other = train(job)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = dataclasses.replace(job.tracking, enabled=True, uri=uri, log_model=False)
    begun = train(dataclasses.replace(job, tracking=tracked), start_from=other.folder)
    assert begun.run_id is not None
    run = MlflowClient(uri).get_run(begun.run_id)
    assert run.data.tags["lineage.parameters_of"] == str(other.folder)
    assert run.data.tags["lineage.step"] == str(other.chosen.step)
    assert run.data.params["model"] == "model", "the setting is shown as without it"
    assert load_file(begun.folder / "initial.safetensors").keys() == other.parameters.keys()
    beginning, others = beginning_of(["--from", "runs/x", "--lanes", "2"])
    assert (beginning.parameters, others) == ("runs/x", ["--lanes", "2"])
    with pytest.raises(
        st.ConfigError, match=r"^--from: expected a run's folder or a \.safetensors file, found nothing"
    ):
        beginning_of(["--from"])
