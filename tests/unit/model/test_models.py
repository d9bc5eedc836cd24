"""Promise 17: a model is its user's. Each trains with the same bits whatever is measured, stopped or shared out among
workers, or is refused by the trial in one line that names what cannot be kept. There is no third outcome."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.model.module.tensors import check_tensors
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.crew import Crew
from tests.support.layers import LAYERS, LINE, NOT_LAYERS, RECURRENT
from tests.support.models import EVAL, REFUSED, TRAINED
from tests.support.two_workers import job_of, train_alone, train_by_controller, train_by_two

DRAWS_WHILE_MEASURED = ("FractionalMaxPool2d", "FractionalMaxPool3d")
"""Layers of torch.nn that draw in evaluation mode too."""
TOLD = ("enable_nested_tensor", "dropout option", "Sparse", "ComplexHalf", ".*nested", "`torch.")
"""Warnings of PyTorch's about some of these models."""
pytestmark = [pytest.mark.filterwarnings(*(f"ignore:{told}" for told in TOLD))]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(5)
    x = generator.normal(size=(90, *LINE)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, label=(x.mean((1, 2)) * 20).round().astype(np.int64) % 5)
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(0.8, 0.2, 0.0), seed=1))
    return str(folder / "d")


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2) as made:
        yield made


@pytest.mark.parametrize("name", [*TRAINED, *RECURRENT, *(each for each in LAYERS if each not in DRAWS_WHILE_MEASURED)])
def test_promise_17_same_bits_whatever_is_measured_stopped_or_shared_out(
    name: str, url: str, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(name, url)
    preflight(plan(job))
    expected = train_alone(job)
    monkeypatch.setattr("streamtrain.model.gradient.LARGE_BYTES", 0)  # from here on as a large model's: one by one
    assert train_alone(job, evaluations=True) == expected, "the bits depend on how often the risk is measured"
    monkeypatch.setattr("streamtrain.run.controller.FIRST_STINT", 2)  # of 3 steps a pass
    whole = train_by_controller(job, tmp_path)
    assert train_by_controller(job, tmp_path, stop=True) == whole, "the bits depend on whether the run was stopped"
    assert train_by_two(crew, name, url) == {expected}, "the bits depend on the number of workers"


@pytest.mark.parametrize("name", [*REFUSED, *DRAWS_WHILE_MEASURED])
def test_promise_15_what_cannot_be_kept_is_refused_by_the_trial_by_its_name(name: str, url: str) -> None:
    message = REFUSED[name][1] if name in REFUSED else EVAL
    with pytest.raises(st.JobError, match=message) as raised:
        preflight(plan(job_of(name, url)))
    assert "\n" not in str(raised.value)


def test_every_layer_of_torch_is_tried() -> None:
    classes = {name: each for name, each in vars(torch.nn).items() if isinstance(each, type)}
    kinds = {name for name, each in classes.items() if issubclass(each, torch.nn.Module)}
    losses = {name for name in kinds if "Loss" in name}
    lazy = {name for name in kinds if name.startswith("Lazy")}
    assert kinds - losses - lazy - NOT_LAYERS.keys() == LAYERS.keys() | RECURRENT.keys()


def test_views_of_one_memory_that_share_no_element_are_parameters_of_their_own() -> None:
    """As halves of a packed weight, side by side or interleaved; looked at without the memory of a mask for each."""
    whole = torch.zeros(64, 8)
    model = torch.nn.Module()
    for number, part in enumerate((*whole[:32].chunk(2, dim=1), *whole[32:].chunk(16))):
        model.register_parameter(f"part{number}", torch.nn.Parameter(part))
    check_tensors(model, torch.float32)
    model.register_parameter("again", torch.nn.Parameter(whole[31:33]))
    with pytest.raises(st.JobError, match="'again': expected memory of its own"):
        check_tensors(model, torch.float32)
