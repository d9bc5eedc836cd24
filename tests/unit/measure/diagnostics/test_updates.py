"""Clipping, update ratio, layers and trajectory: closed forms, and a whole run against a plain loop."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.aggregate.descent.norms import StepNorms
from streamtrain.aggregate.vector import layout_of
from streamtrain.measure.diagnostics import Diagnostics, UpdateFigures
from streamtrain.measure.diagnostics.clipping import clipping
from streamtrain.measure.diagnostics.layers import EVERY, Layers
from streamtrain.measure.diagnostics.noise_scale import noise_of
from streamtrain.measure.diagnostics.trajectory import Trajectory
from streamtrain.measure.diagnostics.update_ratio import update_ratio
from streamtrain.measure.run_curves import update_readings
from streamtrain.values import LayerNorms, Moments, Norms, Update
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run


def update(step: int, norms: Norms | None = None, clip_scale: float = 1.0) -> Update:
    moments = Moments.of(np.array([1.0, 2.0]))
    return Update(step, moments, moments, 0.1, 1.0, clip_scale, norms)


def test_clipping_counts_steps_and_what_was_cut() -> None:
    assert clipping([update(0), update(1, clip_scale=0.25), update(2, clip_scale=0.75), update(3)]) == (0.5, 0.25)


def test_update_ratio() -> None:
    assert update_ratio(LayerNorms(9.0, 4.0, 0.0001)) == pytest.approx(0.005)
    assert update_ratio(LayerNorms(9.0, 0.0, 1.0)) is None


def test_layers_are_root_mean_squares_under_names_that_mlflow_takes() -> None:
    layers = Layers()
    for number in range(EVERY - 1):
        assert (
            layers.add(Norms((), {"0.weight": LayerNorms(number**2, 4.0, 1.0), "a+b": LayerNorms(1.0, 0.0, 1.0)})) == {}
        )
    last = layers.add(Norms((), {"0.weight": LayerNorms(81.0, 4.0, 1.0), "a+b": LayerNorms(1.0, 0.0, 1.0)}))
    readings = update_readings(UpdateFigures(last, None, None), update(7), 0.0)
    assert {reading.name: reading.value for reading in readings} == {
        "layer_gradient_norm/0.weight": pytest.approx(math.sqrt(28.5)),
        "layer_update_ratio/0.weight": pytest.approx(0.5),
        "layer_gradient_norm/a_b": pytest.approx(1.0),
    }


def test_length_of_a_circle_and_distance_from_its_start() -> None:
    angles = np.linspace(0, math.pi, 1001)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    trajectory = Trajectory(every=5)
    for squared in np.square(np.diff(points, axis=0)).sum(1)[4::5]:
        trajectory.add(Norms((), {"a": LayerNorms(1.0, 1.0, float(squared))}))
    assert trajectory.length == pytest.approx(math.pi, rel=1e-5)


def test_updates_without_norms_give_no_points() -> None:
    assert Diagnostics.at_every(10).add(update(0)) is None


def test_each_of_the_first_ten_steps_with_norms_gives_points_and_then_every_tenth() -> None:
    diagnostics, norms = Diagnostics.at_every(5), Norms(((1, 4.0), (1, 4.0)), {"a": LayerNorms(3.0, 1.0, 1.0)})
    with_norms = {step: dataclasses.replace(update(step), norms=norms) for step in range(4, 200, 5)}
    found = {step: update_readings(diagnostics.add(each), each, 0.0) for step, each in with_norms.items()}
    assert [step for step, readings in found.items() if readings] == [*range(4, 50, 5), 99, 149, 199]
    names = {reading.name for reading in found[99]}
    assert names > {"update/ratio", "gradient/noise_scale", "minibatch/efficiency_x8", "layer_gradient_norm/a"}
    assert diagnostics.trajectory.length == pytest.approx(200)  # each of the forty stands for five


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].double().flatten(1) / 255}


def test_a_whole_run_reports_what_a_plain_loop_finds(tmp_path: Path) -> None:
    """Two lanes of one worker, every second step: norms, layers, length, distance, ratio and noise, by autograd."""
    pack_digits(tmp_path / "digits", examples=500)
    job = st.Job(
        st.Data(str(tmp_path / "digits"), transform=scaled),
        lambda: torch.nn.Linear(64, 10),
        mode=st.Online(),
        optimizer=st.SGD(lr=0.1, momentum=0.5),
        batch_size=20,
        lanes=2,
        precision="float64",
        tracking=st.Tracking(log_every=2),
    )
    notebook = Notebook()
    result, fleet = run(job, tmp_path, notebook)
    arrays = fleet.worker._plan.reader("train").read(0, 400)
    x, y = torch.from_numpy(arrays["image"]).double().flatten(1) / 255, torch.from_numpy(arrays["label"])
    torch.manual_seed(0)
    net = torch.nn.Linear(64, 10).double()
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.5)
    due = StepNorms(layout_of(net), (), 2).is_due
    length, ratios, norms, layers = 0.0, [], [], []
    for step in range(20):
        lanes = []
        for lane in (0, 1):
            rows = slice(200 * lane + 10 * step, 200 * lane + 10 * step + 10)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            lanes.append(torch.cat([p.grad.flatten().clone() for p in net.parameters() if p.grad is not None]))
        before = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        torch.nn.utils.vector_to_parameters(sum(lanes) / 2, grads := [p.clone() for p in net.parameters()])  # type: ignore[arg-type]
        for parameter, gradient in zip(net.parameters(), grads, strict=True):
            parameter.grad = gradient.data
        optimizer.step()
        norms.append(float((sum(lanes) / 2).norm()))  # type: ignore[union-attr]
        change = torch.nn.utils.parameters_to_vector(net.parameters()).detach() - before
        if due(step):
            lanes_due = lanes
            length += 2 * float(change.norm())
            layers.append([float(p.grad.norm()) for p in net.parameters() if p.grad is not None])
            ratios.append((step, pytest.approx(float(change.norm() / before.norm()), rel=1e-6)))
    end = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    assert notebook.named("trajectory/length")[-1] == (
        19,
        pytest.approx(max(length, float((end - start).norm())), rel=1e-6),
    )
    assert notebook.named("trajectory/distance")[-1] == (19, pytest.approx(float((end - start).norm()), rel=1e-9))
    assert notebook.named("update/ratio") == ratios
    pairs = [(norms[step] + norms[step + 1]) / 2 for step in range(0, 20, 2)]
    assert [value for _, value in notebook.named("gradient/norm")] == pytest.approx(pairs, rel=1e-9)
    assert result.gradient_norm_at_stop == pytest.approx(np.mean(norms), rel=1e-9)
    last_due = max(step for step in range(20) if due(step))
    roots = np.sqrt(np.square(layers).mean(0))
    for name, root in zip(("weight", "bias"), roots, strict=True):
        assert notebook.named(f"layer_gradient_norm/{name}") == [(last_due, pytest.approx(root, rel=1e-9))]
    trace = (
        10 * (lanes_due[0] - lanes_due[1]).square().sum() / 2
    )  # unbiased variance between two means of ten, times ten
    last = fleet.updates[last_due].norms
    assert last is not None
    noise = noise_of(last)
    assert noise is not None and noise.trace == pytest.approx(float(trace), rel=1e-9)
