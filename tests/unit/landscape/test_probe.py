"""A probe of a tiny run against autograd's dense Hessian; gradients through time of a linear recurrent net."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.landscape.recurrent import through_time
from streamtrain.track.figures import save
from tests.support.command import streamtrain
from tests.support.datasets import pack_digits
from tests.support.fleet import run

JOB = """
import torch
import streamtrain as st

def model():
    return torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float().flatten(1) / 15}

job = st.Job(st.Data("digits", transform=scaled), model, mode=st.Online(), optimizer=st.SGD(lr=0.5), batch_size=100)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> st.Job:
    monkeypatch.chdir(tmp_path)
    pack_digits(tmp_path / "digits", examples=900)
    (tmp_path / "job.py").write_text(JOB)
    return st.load_job(tmp_path / "job.py")


def test_a_probe_is_what_autograd_finds(job: st.Job, tmp_path: Path) -> None:
    result, fleet = run(job, tmp_path)
    found = st.probe(job, tmp_path, examples=10**6, iterations=400)
    arrays = fleet.worker._plan.reader("train").read(0, 720)
    x, y = torch.from_numpy(arrays["image"]).double().flatten(1) / 15, torch.from_numpy(arrays["label"])
    net = job.model().double()
    net.load_state_dict(result.parameters)
    net.eval()
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    here = torch.cat([p.detach().flatten() for p in net.parameters()])

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([math.prod(shape) for shape in shapes])
        tensors = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        output = torch.func.functional_call(net, tensors, (x,))
        return torch.nn.functional.cross_entropy(output, y)

    gradient = torch.func.grad(loss)(here)
    hessian = torch.func.hessian(loss)(here)
    values = torch.linalg.eigvalsh(hessian)
    at = found.curvature
    assert found.examples == 720 and at.loss == pytest.approx(float(loss(here)), rel=1e-9)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-9)
    assert at.gradient_curvature == pytest.approx(float(gradient @ hessian @ gradient), rel=1e-9)
    assert at.measured == pytest.approx(float(loss(here - 0.5 * gradient) - loss(here)), rel=1e-6)
    assert found.spectrum.smallest == pytest.approx(float(values[0]), abs=2e-3 * float(values[-1]))
    assert found.spectrum.largest == pytest.approx(float(values[-1]), rel=2e-3)
    assert found.point == "slope" and found.through_time is None and found.step is None and found.seconds > 0
    torch.manual_seed(0)
    start = torch.cat([p.detach().flatten() for p in job.model().parameters()]).double()
    assert found.from_start[0] == (0.0, pytest.approx(float(loss(start)), rel=1e-9))
    assert found.from_start[-1] == (1.0, pytest.approx(at.loss, rel=1e-9))
    assert found.along_gradient[0] == (0.0, pytest.approx(at.loss, rel=1e-9))
    save(found.figure(), tmp_path / "probe.png")
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    for words in ("gTg = ", "a step of 0.5 along -g: predicted", "from the start to here the loss"):
        assert words in found.words


def test_the_command_prints_words_and_json_and_refuses_in_one_line(job: st.Job, tmp_path: Path) -> None:
    run(job, tmp_path)
    done = streamtrain("probe", ".", "--job", "job.py", "--examples", "200", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["examples"] == 200 and (tmp_path / "probe.png").is_file()
    with pytest.raises(st.ConfigError, match="none.safetensors: expected saved parameters, found .*; name a finished"):
        st.probe(job, tmp_path / "none.safetensors")
    (tmp_path / "job.py").write_text(JOB.replace("64, 4", "64, 5"))
    with pytest.raises(st.ConfigError, match="probe: expected parameters of the job's model, found .*size mismatch"):
        st.probe(st.load_job(tmp_path / "job.py"), tmp_path)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
def test_gradients_through_time_grow_with_the_spectral_radius(radius: float, batch_first: bool) -> None:
    """Positive weights and inputs, ReLU: a linear recurrence ``h_t = W h_{t−1} + U x_t``, whose λ is known."""
    generator = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    layer = torch.nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=batch_first).double()
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.from_numpy(rotation * radius))
        layer.weight_ih_l0.fill_(1.0)
    net = torch.nn.Sequential(layer)
    x = torch.rand(5, 7, 2, dtype=torch.float64) if batch_first else torch.rand(7, 5, 2, dtype=torch.float64)
    steps = 7

    def loss() -> torch.Tensor:
        output, _ = net(x)
        last = output[:, -1] if batch_first else output[-1]
        return last.square().sum(1).mean()

    found = through_time(net, loss)
    assert found is not None and len(found.norms) == steps
    assert found.spectral_radius == pytest.approx(radius)
    twin = x.clone().requires_grad_()
    output, _ = net(twin)
    (output[:, -1] if batch_first else output[-1]).square().sum(1).mean().backward()
    assert twin.grad is not None
    expected = [twin.grad.select(1 if batch_first else 0, t).norm() * math.sqrt(5) for t in reversed(range(steps))]
    assert found.norms == pytest.approx([float(norm) for norm in expected])


def test_growth_is_the_factor_of_a_known_recurrence_and_other_models_have_none() -> None:
    layer = torch.nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True).double()
    with torch.no_grad():
        layer.weight_hh_l0.fill_(0.8)
        layer.weight_ih_l0.fill_(1.0)
    x = torch.rand(4, 20, 1, dtype=torch.float64)
    found = through_time(layer, lambda: layer(x)[0][:, -1].sum())
    assert found is not None and found.growth == pytest.approx(0.8) and found.spectral_radius == pytest.approx(0.8)
    assert found.norms[0] == pytest.approx(2 * 2.0), "four gradients of one, as a root mean square times the batch"
    assert through_time(torch.nn.Linear(1, 1), lambda: torch.zeros(())) is None
