"""Gradients of a small net against a plain computation; the part of negative eigenvalues against dense matrices."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.landscape.gradients import directions_at
from streamtrain.landscape.lanczos import extremes
from streamtrain.landscape.surface import Surface
from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import plan
from tests.support.datasets import pack_digits
from tests.support.fleet import Notebook, run


@pytest.fixture
def job(tmp_path: Path) -> st.Job:
    pack_digits(tmp_path / "digits", examples=1200)
    data = st.Data(str(tmp_path / "digits"), transform=scaled)
    job = st.Job(data, lambda: torch.nn.Linear(64, 10), mode=st.Epochs(max_passes=2), batch_size=40, seed=2)
    return dataclasses.replace(job, optimizer=st.SGD(lr=0.1), clip=st.Clip(norm=0.5))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float().flatten(1) / 15}


def test_gradients_are_those_of_the_next_minibatches_and_of_held_out_examples(job: st.Job) -> None:
    plans = plan(job)
    surface = Surface(plans, 480)
    torch.manual_seed(0)
    net = torch.nn.Linear(64, 10)
    here = surface.stand(net.state_dict())
    found = directions_at(surface, plans, here, 2)

    def gradient(split: str, numbers: np.ndarray) -> torch.Tensor:
        arrays = plans.reader(split).take(numbers)
        twin = torch.nn.Linear(64, 10).double()
        twin.load_state_dict(net.state_dict())
        x = torch.from_numpy(arrays["image"]).double().flatten(1) / 15
        loss = torch.nn.functional.cross_entropy(twin(x), torch.from_numpy(arrays["label"]))
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(twin.parameters()))])

    minibatches = [
        gradient("train", select_minibatch(plans.order, plans.pass_orders, plans.order.position(step)).each())
        for step in range(2, 14)
    ]
    means = torch.stack(minibatches)
    norms = means.norm(dim=1)
    scales = (0.5 / norms).clamp(max=1)
    products = means @ means.T
    apart = ~torch.eye(12, dtype=torch.bool)
    mixed = ((scales[:, None] + scales[None, :]) / 2 * products)[apart].mean()
    assert found is not None and found.clip_kept == pytest.approx(float(mixed / products[apart].mean()), rel=1e-5)
    held_out = gradient("validation", np.arange(plans.manifest.splits["validation"].examples))
    cosine = float(means.mean(0) @ held_out / means.mean(0).norm() / held_out.norm())
    assert found.alignment == pytest.approx(cosine, abs=0.05) and 0.9 < found.alignment < 1.1


def test_where_too_few_minibatches_are_left_nothing_is_said(job: st.Job) -> None:
    online = plan(dataclasses.replace(job, mode=st.Online()))
    surface = Surface(online, 480)
    here = surface.stand(torch.nn.Linear(64, 10).state_dict())
    assert directions_at(surface, online, here, online.order.steps - 2) is None
    assert directions_at(surface, plan(job), here, online.order.steps - 2) is not None, "there is another pass"
    small = directions_at(Surface(online, 64), online, here, 0)
    assert small is not None and small.clip_kept is None, "parts of minibatches are not clipped"


def test_a_run_logs_them_at_its_probes_and_the_way_to_its_end(job: st.Job, tmp_path: Path) -> None:
    job = dataclasses.replace(job, probe_every=10, probe_examples=300)
    notebook = Notebook()
    result, _ = run(job, tmp_path, notebook)
    steps = [step for step, _ in notebook.named("probe/loss")]
    names = ("held_out_alignment", "subsequent_correlation", "effective_dimension", "clipping_keeps")
    for name in (*names, "negative_eigenvalues_part", "held_out_alignment_standard_error"):
        assert [step for step, _ in notebook.named(f"probe/{name}")] == steps, name
    ways = dict(notebook.named("probe/cosine_to_end"))
    assert list(ways) == [step for step in steps if step + 1 != result.chosen.step] and ways[9] > 0.3
    assert all(0 <= part < 0.1 for _, part in notebook.named("probe/negative_eigenvalues_part")), "a convex loss"


def test_the_part_of_negative_eigenvalues_is_that_of_dense_matrices() -> None:
    size, found = 400, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        values = torch.cat([torch.linspace(-2, -0.5, 120), torch.linspace(0.5, 3, 280)]).double()
        matrix = basis @ torch.diag(values) @ basis.T
        found.append(extremes(lambda vector, m=matrix: m @ vector, size, iterations=40, tolerance=1e-6).negative)
    assert np.mean(found) == pytest.approx(0.3, abs=0.04)
    assert extremes(lambda vector: 2 * vector, 10).negative == 0
