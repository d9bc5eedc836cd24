"""Promises 12 and 15: the trial refuses what draws where held-out data are seen, what mixes examples, and what would
fail later; in one line that names it, before anything starts."""

import dataclasses
import os
import random
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from streamtrain.run.fleet.cluster.ray_private import callers_paths
from tests.support.fleet import run

OWN = np.random.default_rng()
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 6)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, y=x.sum(1), label=(x.sum(1) > 0).astype(np.int64))
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(0.8, 0.2, 0.0), seed=1))
    return str(folder / "d")


def job(url: str, model: Callable[[], nn.Module] | None = None, *, loss: Any = "cross_entropy", **data: Any) -> st.Job:
    told = {"inputs": ("x",), **data}
    off = st.Tracking(enabled=False)
    make = model or (lambda: nn.Linear(6, 2))
    return st.Job(st.Data(url, **told), make, loss=loss, batch_size=16, mode=st.Epochs(max_passes=2), tracking=off)


def noise(factor: Callable[[], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda batch: {**batch, "x": batch["x"] * factor()}


MAPS: dict[str, tuple[Callable[[dict[str, Any]], Mapping[str, Any]], str]] = {
    "numpy": (noise(lambda: np.float32(np.random.rand())), "another 'x' in a second try"),
    "random": (noise(lambda: np.float32(random.random())), "another 'x' in a second try"),
    "torch": (noise(lambda: torch.rand(()).numpy()), "another 'x' in a second try"),
    "a generator of its own": (noise(lambda: np.float32(OWN.random())), "another 'x' in a second try"),
    "seldom": (lambda e: e if np.random.rand() > 1e-9 else {}, "that it draws from numpy.random"),
    "seldom, by random": (lambda e: e if random.random() > 1e-9 else {}, "that it draws from random"),
}


@pytest.mark.parametrize("name", MAPS)
def test_promise_12_a_map_must_not_draw(name: str, url: str) -> None:
    function, found = MAPS[name]
    with pytest.raises(st.JobError, match=f"data.map: expected the same .* found {found}; take the random part out"):
        preflight(plan(job(url, map=function)))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (noise(lambda: torch.rand(4, 1)), "another 'x' in a second try"),
        (noise(lambda: float(np.random.rand())), "another 'x' in a second try"),
        (lambda batch: batch if torch.rand(()) >= 0 else {}, "that it draws from torch's global generator"),
    ],
)
def test_promise_12_a_transform_must_not_draw(function: Any, found: str, url: str) -> None:
    with pytest.raises(st.JobError, match=f"data.transform: expected the same .* found {found}"):
        preflight(plan(job(url, transform=function)))


def test_promise_12_the_trial_leaves_the_callers_generators_as_they_were(url: str) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    preflight(plan(job(url)))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def in_batch(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output @ output.T, torch.arange(len(output)), reduction="none")


def averaged(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target).expand(len(output))


LOSSES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "broadcast": (
        lambda output, y: ((output - y) ** 2).mean(1),
        {"target": "y"},
        r"loss: expected of each example a value of its own, .* \(4, 1\) and a target of \(4,\) broadcast to \(4, 4\)",
    ),
    "negatives of the batch": (in_batch, {}, "loss: expected of each example a value of its own"),
    "a mean": (averaged, {}, "loss: expected of each example a value of its own"),
    "centred": (lambda output, y: (output[:, 0] - output.mean()) ** 2, {}, "loss: expected of each example a value"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_mixes_examples_is_refused_with_its_cause(name: str, url: str) -> None:
    loss, data, message = LOSSES[name]
    outputs = 1 if "target" in data else 2
    with pytest.raises(st.JobError, match=message) as raised:
        preflight(plan(job(url, lambda: nn.Linear(6, outputs), loss=loss, **data)))
    assert "\n" not in str(raised.value)


def test_a_metric_that_mixes_examples_is_refused(url: str) -> None:
    mixing = dataclasses.replace(job(url), metrics={"spread": lambda output, _: output[:, 0] - output.mean()})
    with pytest.raises(st.JobError, match="metrics, 'spread': expected of each example a value of its own"):
        preflight(plan(mixing))


class Flat(nn.Module):
    """Outputs of shape (examples,)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(x)[:, 0]
        return output


def test_mse_takes_flat_outputs_and_columns_alike(url: str, tmp_path: Path) -> None:
    flat, column = job(url, Flat, loss="mse", target="y"), job(url, lambda: nn.Linear(6, 1), loss="mse", target="y")
    found = []
    for each in (flat, column):
        preflight(plan(each))
        result, _ = run(each, tmp_path)
        found.append([tensor for _, tensor in sorted(result.parameters.items())])
    assert all(map(torch.equal, *found)), "(N, 1) beside (N,) is compared number by number"


def test_mse_refuses_another_count_of_numbers_by_its_shapes(url: str) -> None:
    with pytest.raises(st.JobError, match=r"loss 'mse': .* the target of shape \(4,\), found shape \(4, 3\)"):
        preflight(plan(job(url, lambda: nn.Linear(6, 3), loss="mse", target="y")))


class Returns(nn.Module):
    """Gives its output in something."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(6, 2), wrap

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(self.linear(x))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


WRAPS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "dict": (lambda o: {"logits": o}, lambda o: o["logits"]),
    "tuple": (lambda o: (o, None), lambda o: o[0]),
    "dataclass": (Output, lambda o: o.logits),
    "object": (lambda o: SimpleNamespace(logits=o), lambda o: o.logits),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_model_that_returns_an_object_trains_with_a_loss_of_it_and_is_refused_without(
    name: str, url: str, tmp_path: Path
) -> None:
    wrap, unwrap = WRAPS[name]
    own = job(url, lambda: Returns(wrap), loss=lambda o, y: nn.functional.cross_entropy(unwrap(o), y, reduction="none"))
    preflight(plan(own))
    assert run(own, tmp_path)[0].evaluations
    with pytest.raises(
        st.JobError, match=r"loss 'cross_entropy': expected an output of shape \(examples, classes\), found"
    ):
        preflight(plan(job(url, lambda: Returns(wrap))))


def test_targets_in_a_dict_are_refused_by_the_field(url: str) -> None:
    with pytest.raises(st.JobError, match="data.transform, field 'label': expected a tensor, found dict"):
        preflight(plan(job(url, transform=lambda batch: {**batch, "label": {"one": batch["label"]}})))


def test_promise_15_a_function_that_cannot_travel_is_refused_by_its_setting(url: str) -> None:
    lock = threading.Lock()

    def locked(batch: Batch) -> Batch:
        with lock:
            return batch

    with pytest.raises(
        st.JobError, match="data.transform: expected a function that can be sent to workers, found .*lock"
    ):
        preflight(plan(job(url, transform=locked)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Data(("a", "b")), r"data.url: expected a folder, found \('a', 'b'\); name one data set's"),
        (lambda: st.Data("a", target={"y": "label"}), "data.target: expected the name of a field, or names, found"),
        (lambda: st.Data("a", inputs="image"), "data.inputs: expected a tuple of fields' names, found 'image'"),
        (
            lambda: st.Job(st.Data("a"), nn.Identity, optimizer=torch.optim.AdamW),
            r"optimizer: expected st.SGD\(…\), st.AdamW\(…\) or .*, found <class",
        ),
        (lambda: st.Job("a", nn.Identity), r"data: expected st.Data\(…\), found 'a'"),
        (lambda: st.Job(st.Data("a"), nn.Linear(1, 1)), r"model: expected a function that returns a new model"),
    ],
)
def test_promise_10_a_declaration_of_another_kind_is_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(st.ConfigError, match=message):
        make()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_gradient_whose_squares_overflow_has_a_norm_and_is_clipped(url: str, tmp_path: Path, precision: Any) -> None:
    """1e25 squared is more than float32 holds."""

    def steep(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none") * 1e25

    clipped = dataclasses.replace(job(url, loss=steep), optimizer=st.SGD(lr=0.1), clip=st.Clip(norm=1.0))
    result, fleet = run(dataclasses.replace(clipped, precision=precision), tmp_path)
    assert all(1e20 < update.gradient_norm < 1e27 for update in fleet.updates)
    assert all(bool(tensor.isfinite().all()) for tensor in result.parameters.values())


def test_workers_look_for_modules_where_the_caller_found_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path, "../src", "../nowhere"])
    folders = callers_paths()._py_driver_sys_path
    assert str((tmp_path / "src").resolve()) in folders
    assert not any("site-packages" in each or "nowhere" in each for each in folders)


def test_no_folder_is_left_of_a_run_that_could_not_begin(url: str, tmp_path: Path) -> None:
    """A model that fails in workers alone is found only when Ray has started."""
    here = os.getpid()

    def model() -> nn.Module:
        if os.getpid() != here:
            raise RuntimeError("not here")
        return nn.Linear(6, 2)

    runs = tmp_path / "runs"
    failing = dataclasses.replace(job(url, model), tracking=st.Tracking(enabled=False, folder=str(runs)))
    with pytest.raises(st.JobError, match="model failed: RuntimeError: not here"):
        st.train(failing, quiet=True)
    assert not runs.exists() or not list(runs.iterdir())
