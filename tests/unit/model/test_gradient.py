"""One worker's gradient sums against plain autograd; buffers, unused and tied parameters, dropout."""

import dataclasses
import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.memory import Capacity, Memory, private_memory
from streamtrain.aggregate.moments import NUMBERS
from streamtrain.aggregate.saved import collect_tensors
from streamtrain.errors import JobError
from streamtrain.job import Data, Job
from streamtrain.model.evaluation import evaluate
from streamtrain.model.gradient import Gradient
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.objective import cross_entropy, mse, zero_one
from streamtrain.values import Arrays
from tests.support.command import ROOT


class Network(torch.nn.Module):
    """BatchNorm, dropout, a tied weight, a frozen layer and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.second = torch.nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.unused = torch.nn.Linear(6, 6)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.frozen(self.second(self.drop(self.norm(self.first(x)))))
        return output


def arrays(examples: int = 10, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return {
        "x": generator.normal(size=(examples, 6)).astype(np.float32),
        "label": generator.integers(0, 6, examples),
    }


def loaded(job: Job) -> tuple[Gradient, Memory]:
    gradient = Gradient(job)
    memory = private_memory(gradient.layout, Descent.of(job), Capacity(2))
    gradient.write(memory.states[0], gradient.model.state_dict())
    gradient.load(memory.states[0])
    return gradient, memory


JOB = Job(Data("unused", inputs=("x",)), Network, precision="float64", batch_size=2)


def test_gradient_is_the_sum_over_the_examples() -> None:
    gradient, memory = loaded(JOB)
    slot, batch = memory.slots[1], arrays()
    gradient.lane(batch, slot, seed=7)

    torch.manual_seed(JOB.seed)
    twin = Network().double()
    torch.manual_seed(7)
    losses = cross_entropy(twin(torch.from_numpy(batch["x"]).double()), torch.from_numpy(batch["label"]))
    losses.sum().backward()
    expected = dict(twin.named_parameters())
    for index, place in enumerate(gradient.layout.parameters):
        theirs = expected[place.name].grad
        assert bool(slot.used[index]) == (theirs is not None)
        torch.testing.assert_close(
            place.view(slot.gradient), torch.zeros(place.shape).double() if theirs is None else theirs
        )
    assert [p.name for p, used in zip(gradient.layout.parameters, slot.used, strict=True) if not used] == [
        "unused.weight",
        "unused.bias",
    ]
    assert slot.moments[0] == slot.moments[NUMBERS] == 10
    assert slot.moments[1].item() == pytest.approx(losses.mean().item(), rel=1e-12)
    assert slot.moments[2].item() == pytest.approx(9 * losses.var().item(), rel=1e-9)
    assert torch.equal(slot.buffers[:6], twin.norm.running_mean) and slot.counters[0] == 1


def test_buffers_start_from_the_state_in_every_lane() -> None:
    gradient, memory = loaded(JOB)
    gradient.lane(arrays(), memory.slots[0], seed=1)
    once = memory.slots[0].buffers.clone()
    gradient.lane(arrays(), memory.slots[0], seed=1)
    assert torch.equal(memory.slots[0].buffers, once) and memory.slots[0].counters[0] == 1


@pytest.mark.parametrize("micro_batch", [1, 3, 10])
def test_a_lane_in_pieces_has_the_same_sums(micro_batch: int) -> None:
    """Without BatchNorm and dropout, which work on a piece; each adds what a plain loop over pieces adds."""

    def plain() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))

    whole, memory = loaded(dataclasses.replace(JOB, model=plain))
    whole.lane(arrays(), memory.slots[0], seed=1)
    pieces, others = loaded(dataclasses.replace(JOB, model=plain, micro_batch=micro_batch))
    pieces.lane(arrays(), others.slots[0], seed=1)
    torch.testing.assert_close(others.slots[0].gradient, memory.slots[0].gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(others.slots[0].moments, memory.slots[0].moments, rtol=1e-9, atol=1e-12)
    assert others.slots[0].used.tolist() == memory.slots[0].used.tolist()
    torch.manual_seed(JOB.seed)
    twin, batch = plain().double(), {name: torch.from_numpy(array) for name, array in arrays().items()}
    for start in range(0, 10, micro_batch):
        x, label = (batch[name][start : start + micro_batch] for name in ("x", "label"))
        torch.autograd.backward(cross_entropy(twin(x.double()), label).sum())
    for place in pieces.layout.parameters:
        theirs = twin.get_parameter(place.name).grad
        assert theirs is not None
        assert float((place.view(others.slots[0].gradient) - theirs).norm() / theirs.norm()) < 1e-9


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_a_lane_adds_to_its_siblings_sum_with_the_bits_of_adding_both_up(micro_batch: int | None) -> None:
    gradient, memory = loaded(dataclasses.replace(JOB, micro_batch=micro_batch))
    one, other = memory.slots
    gradient.lane(arrays(seed=1), one, seed=1)
    gradient.lane(arrays(seed=2), other, seed=2)
    own, expected = one.gradient.clone(), one.gradient + other.gradient
    adding = dataclasses.replace(other, gradient=one.gradient, lefts=(one.gradient,))
    one.gradient.copy_(own)
    gradient.lane(arrays(seed=2), adding, seed=2)
    assert torch.equal(one.gradient.view(torch.int64), expected.view(torch.int64))
    one.gradient.copy_(own).neg_()
    gradient.empty_lane(adding)
    for place in gradient.layout.parameters:
        left, sums = place.view(one.gradient), 0.0 - place.view(own)
        assert torch.equal(left.view(torch.int64), sums.view(torch.int64)), "no -0 is left"
    assert adding.used.tolist() == other.used.tolist() and not other.used.any()


def test_a_lane_kept_for_its_sibling_gives_the_sum_of_both_at_once() -> None:
    gradient, memory = loaded(JOB)
    one, other = memory.slots
    gradient.lane(arrays(seed=1), one, seed=1)
    gradient.lane(arrays(seed=2), other, seed=2)
    own, expected = one.gradient.clone(), one.gradient + other.gradient
    waiting = dataclasses.replace(one, waits=True)
    adding = dataclasses.replace(other, gradient=one.gradient, adds=True)
    gradient.lane(arrays(seed=1), waiting, seed=1)
    gradient.lane(arrays(seed=2), adding, seed=2)
    assert torch.equal(one.gradient.view(torch.int64), expected.view(torch.int64))
    gradient.lane(arrays(seed=1), waiting, seed=1)
    gradient.empty_lane(adding)
    assert torch.equal(one.gradient.view(torch.int64), (0.0 + own).view(torch.int64)), "no -0 is left"
    gradient.empty_lane(waiting)
    gradient.lane(arrays(seed=1), adding, seed=1)
    assert torch.equal(one.gradient.view(torch.int64), (0.0 + own).view(torch.int64))
    gradient.empty_lane(waiting)
    gradient.empty_lane(adding)
    assert not one.gradient.any()


def test_random_numbers_follow_from_the_seed_alone() -> None:
    gradient, memory = loaded(JOB)
    sums = []
    for seed in (3, 4, 3):
        torch.rand(17)
        gradient.lane(arrays(), memory.slots[0], seed)
        sums.append(memory.slots[0].gradient.clone())
    assert torch.equal(sums[0], sums[2]) and not torch.equal(sums[0], sums[1])


def test_evaluation_changes_nothing_and_is_in_evaluation_mode() -> None:
    gradient, memory = loaded(JOB)
    before = memory.states[0].parameters.clone()
    first, second = evaluate(gradient, arrays()), evaluate(gradient, arrays())
    assert first == second and first.loss.count == 10
    assert torch.equal(memory.states[0].parameters, before)
    gradient.lane(arrays(), memory.slots[0], seed=1)
    assert evaluate(gradient, arrays()) == first


def test_parameters_are_views_of_the_state() -> None:
    gradient, memory = loaded(JOB)
    before = evaluate(gradient, arrays()).loss.mean
    memory.states[0].parameters.zero_()
    assert evaluate(gradient, arrays()).loss.mean != before
    assert gradient.state_dict()["first.weight"].abs().sum() == 0
    assert torch.equal(gradient.state_dict()["frozen.weight"], frozen_weight())


def frozen_weight() -> torch.Tensor:
    torch.manual_seed(JOB.seed)
    return Network().double().frozen.weight


def test_bf16_is_autocast_over_float32_parameters() -> None:
    seen = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(output.dtype)
        return cross_entropy(output.float(), target)

    gradient, memory = loaded(Job(Data("unused", inputs=("x",)), Network, loss, precision="bf16", batch_size=2))
    gradient.lane(arrays(), memory.slots[0], seed=1)
    assert seen == [torch.bfloat16] and memory.slots[0].gradient.dtype == torch.float32


def test_fp16_scales_the_loss_and_the_gradient_back() -> None:
    job = Job(Data("unused", inputs=("x",)), lambda: torch.nn.Linear(6, 6), precision="fp16", batch_size=2)
    gradient, memory = loaded(job)
    whole, exact = loaded(dataclasses.replace(job, precision="float32"))
    assert memory.states[0].scaler.tolist() == [65536, 0] and exact.states[0].scaler.tolist() == [0, 0]
    memory.states[0].scaler[0] = 1024.0
    for each, block in ((gradient, memory), (whole, exact)):
        each.lane(arrays(), block.slots[0], seed=1)
    assert memory.slots[0].gradient.dtype == torch.float32
    torch.testing.assert_close(memory.slots[0].gradient, exact.slots[0].gradient, rtol=1e-2, atol=1e-2)
    tiny: Arrays = {"x": np.full((1, 6), 1e-7, np.float32), "label": np.zeros(1, np.int64)}
    lost = {}
    for scale in (1.0, 65536.0):  # halves have nothing between 0 and 6e-8
        memory.states[0].scaler[0] = scale
        gradient.lane(tiny, memory.slots[0], seed=1)
        lost[scale] = int((memory.slots[0].gradient == 0).sum())
    assert lost[65536.0] < lost[1.0]


def convolutional() -> torch.nn.Module:
    layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 6))


def test_channels_last_is_a_layout_of_memory_and_the_gradient_the_same() -> None:
    images = {"x": arrays(8 * 3 * 64)["x"][:, 0].reshape(8, 3, 8, 8), "label": np.arange(8) % 6}
    found = {}
    for channels_last in (False, True):
        gradient, memory = loaded(dataclasses.replace(JOB, model=convolutional, channels_last=channels_last))
        gradient.lane(images, memory.slots[0], seed=1)
        found[channels_last] = {p.name: p.view(memory.slots[0].gradient) for p in gradient.layout.parameters}
        weight = gradient.model.get_parameter("3.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert weight.untyped_storage().data_ptr() == memory.states[0].parameters.untyped_storage().data_ptr()
        assert (
            gradient.objective.inputs(gradient.batch(images))[0].is_contiguous(memory_format=torch.channels_last)
            == channels_last
        )
        saved = {**collect_tensors(gradient.layout, memory.states[0]), **gradient.state_dict()}
        torch.manual_seed(JOB.seed)
        assert torch.equal(saved["3.weight"], convolutional().double().state_dict()["3.weight"])
        assert torch.equal(saved["parameters/3.weight"], saved["3.weight"])
        assert all(tensor.is_contiguous() for tensor in saved.values()), "else safetensors refuses them"
    for name, theirs in found[False].items():
        torch.testing.assert_close(found[True][name], theirs)


def test_a_compiled_model_has_the_same_parameters_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler that compiles nothing: that it is asked, follows the state, and is not asked at each step."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    plain, expected = loaded(dataclasses.replace(JOB, model=convolutional))
    gradient, memory = loaded(dataclasses.replace(JOB, model=convolutional, compile=True))
    images = {"x": arrays(8 * 3 * 64)["x"][:, 0].reshape(8, 3, 8, 8), "label": np.arange(8) % 6}
    initial = expected.states[0].parameters.clone()
    for step in range(4):
        for each, block in ((plain, expected), (gradient, memory)):
            block.states[step % 2].parameters.copy_(initial * 0.9**step)
            each.load(block.states[step % 2])
            each.lane({name: array[: 8 - step % 3] for name, array in images.items()}, block.slots[0], seed=1)
        torch.testing.assert_close(memory.slots[0].gradient, expected.slots[0].gradient)
    assert 0 < len(graphs) <= 3, "one for the first size, one for all sizes"
    assert evaluate(gradient, images) == evaluate(plain, images)
    assert set(gradient.state_dict()) == set(plain.state_dict())


def test_a_worker_starts_without_the_compiler_unless_it_compiles() -> None:
    """It takes a second to import, in every process."""
    code = """
import sys
import torch
import streamtrain as st
from streamtrain.model.machine.device import prepare_process
job = st.Job(st.Data("none"), torch.nn.Identity)
prepare_process(job)
assert not {"torch._inductor", "torch._dynamo", "sympy"} & set(sys.modules)
import dataclasses
prepare_process(dataclasses.replace(job, compile=True, deterministic=True))
assert torch.are_deterministic_algorithms_enabled()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_operation_without_a_deterministic_kernel_is_refused_by_name() -> None:
    class Puts(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.put(torch.tensor([0]), torch.tensor([1.0], dtype=x.dtype)))

    job = dataclasses.replace(JOB, model=lambda: Puts(6, 6), deterministic=True)
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        prepare_process(job)
        gradient, memory = loaded(job)
        with pytest.raises(JobError, match="the model's forward failed: RuntimeError: put_ does not have a determin"):
            gradient.lane(arrays(), memory.slots[0], seed=1)
        prepare_process(dataclasses.replace(job, deterministic=False))
        gradient.lane(arrays(), memory.slots[0], seed=1)
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark


def test_built_in_losses() -> None:
    output, target = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([1, 1])
    assert zero_one(output, target).tolist() == [0.0, 1.0]
    torch.testing.assert_close(cross_entropy(output, target), torch.tensor([0.126928, 2.126928]), rtol=1e-5, atol=0)
    assert mse(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])).tolist() == [1.0, 4.0]


def test_a_failing_model_is_one_line_with_the_place() -> None:
    gradient, memory = loaded(JOB)
    with pytest.raises(
        JobError, match=r"the model's forward failed: RuntimeError: .*mat1 and mat2 .*test_gradient.py:\d+"
    ):
        gradient.lane({"x": np.zeros((2, 5), np.float32), "label": np.zeros(2, np.int64)}, memory.slots[0], seed=1)
    with pytest.raises(JobError, match="the loss failed: IndexError: Target 9 is out of bounds"):
        gradient.lane({"x": np.zeros((2, 6), np.float32), "label": np.full(2, 9)}, memory.slots[0], seed=1)


def test_a_model_must_be_a_module() -> None:
    with pytest.raises(JobError, match=r"model: expected a function that returns a torch\.nn\.Module, found 3"):
        Gradient(Job(Data("unused"), lambda: 3, batch_size=2))  # type: ignore[arg-type,return-value]
