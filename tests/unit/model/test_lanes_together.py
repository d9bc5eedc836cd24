"""Which lanes go through the stages of a step together, and that it makes no difference to any bit."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, Memory, private_memory
from streamtrain.aggregate.exchange.shared import LaneSums
from streamtrain.job import Data, Job
from streamtrain.model import gradient as gradient_module
from streamtrain.model.gradient import Gradient, Part
from tests.unit.model.test_gradient import arrays, loaded


class Noise(torch.autograd.Function):
    """Draws random numbers in its backward too."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * torch.rand_like(gradients[0])


class Noisy(torch.nn.Module):
    """Random numbers in forward and backward, and no buffers."""

    def __init__(self, buffer: bool = False) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.drop = torch.nn.Dropout(0.5)
        if buffer:
            self.register_buffer("scale", torch.full((6,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = Noise.apply(self.drop(self.first(x)))
        if hasattr(self, "scale"):
            hidden = hidden * self.scale  # which autograd keeps for the backward
        output: torch.Tensor = self.second(hidden)
        return output


def shifted(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """An augmentation that draws a number for each example."""
    return {**batch, "x": batch["x"] + torch.rand(len(batch["x"]), 1, generator=generator)}


NOISY = Job(Data("unused", inputs=("x",), augment_batch=shifted), Noisy, precision="float64", batch_size=2)


def lanes_filled(job: Job, together: int | None, added: bool = False) -> tuple[Gradient, Memory]:
    """Five lanes, one of them without examples; so many go together, or as many as the gradient decides.

    Args:
        added: their gradients are added up as they come, the sum is in the first one's slot.
    """
    gradient = Gradient(job)
    memory = private_memory(gradient.layout, Descent.of(job), Capacity(5))
    gradient.write(memory.states[0], gradient.model.state_dict())
    gradient.load(memory.states[0])
    if together is not None:
        gradient._companions = lambda part: together - 1  # type: ignore[method-assign]
    descent = Descent.of(job)
    rate = LearningRate(descent.schedule, 2, 1)
    aggregator = Aggregator(gradient.layout, descent, rate_of=rate, worker=0, workers=1)
    sums = LaneSums(aggregator, memory.slots, [(0, 5)])
    parts = [Part(lane, {} if lane == 2 else arrays(3 + lane, seed=lane), seed=8 * lane) for lane in range(5)]
    gradient.lanes(iter(parts), lambda lane: sums.slot(0, lane, memory.states[0]) if added else memory.slots[lane])
    return gradient, memory


def decided(gradient: Gradient, examples: int = 3) -> int:
    """How many lanes of so many examples the gradient lets go together."""
    return 1 + gradient._companions(Part(0, arrays(examples), 0))


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("together", [None, 2, 3, 8])
def test_no_bit_depends_on_which_lanes_go_together(together: int | None, added: bool) -> None:
    _, alone = lanes_filled(NOISY, 1, added)
    gradient, memory = lanes_filled(NOISY, together, added)
    assert decided(gradient) > 1
    for one, other in zip(alone.slots, memory.slots, strict=True):
        assert torch.equal(one.gradient.view(torch.int64), other.gradient.view(torch.int64))
        assert one.moments.tolist() == other.moments.tolist() and one.used.tolist() == other.used.tolist()
    assert memory.slots[2].moments[0] == 0 and memory.slots[1].moments[0] == 4
    assert memory.slots[4].gradient.any() != added, "else all is added up in the first one's"


def with_func(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with a derivative by `torch.func` in its forward."""

    class Derived(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.inner(x) + torch.func.grad(lambda z: z.square().sum())(x)
            return output

    return Derived()


def with_sparse(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with a sparse constant that autograd keeps."""

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mixing = model, torch.eye(6, dtype=torch.float64).to_sparse()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = torch.sparse.mm(self.mixing, self.inner(x).T).T
            return output

    return Mixed()


@pytest.mark.parametrize("wrapped", [with_func, with_sparse])
def test_a_model_of_which_cannot_be_told_what_it_keeps_goes_lane_by_lane(
    wrapped: Callable[[torch.nn.Module], torch.nn.Module],
) -> None:
    job = dataclasses.replace(NOISY, model=lambda: wrapped(Noisy()))
    gradient, memory = lanes_filled(job, None)
    _, alone = lanes_filled(job, 1)
    assert decided(gradient) == 1
    for one, other in zip(alone.slots, memory.slots, strict=True):
        assert torch.equal(one.gradient.view(torch.int64), other.gradient.view(torch.int64))


def test_lanes_of_a_model_with_buffers_go_one_by_one() -> None:
    """What autograd kept of a buffer must not have changed before the backward."""
    gradient, memory = lanes_filled(dataclasses.replace(NOISY, model=functools.partial(Noisy, buffer=True)), None)
    assert decided(gradient) == 1 and memory.slots[4].gradient.any()


def test_lanes_of_a_model_with_backward_hooks_go_one_by_one() -> None:
    """A hook may read what the last forward left on the module."""

    def hooked() -> torch.nn.Module:
        model = Noisy()
        model.second.register_full_backward_hook(lambda module, into, out: None)
        return model

    gradient, _ = lanes_filled(dataclasses.replace(NOISY, model=hooked), None)
    assert decided(gradient) == 1


def test_lanes_that_hold_much_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held = (6 + 6 + 6 + 6) * 7 * 8  # about, of the longest: inputs, hidden layer, its mask, log-probabilities
    monkeypatch.setattr(gradient_module, "TOGETHER_BYTES", 4 * held)
    some, _ = lanes_filled(NOISY, None)
    assert 4 <= decided(some) <= 8
    monkeypatch.setattr(gradient_module, "TOGETHER_BYTES", held // 2)
    none, _ = lanes_filled(NOISY, None)
    assert decided(none) == 1


def test_a_short_first_lane_does_not_let_long_ones_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_module, "TOGETHER_BYTES", 30_000)
    gradient, _ = lanes_filled(NOISY, None)
    assert decided(gradient) > 3
    assert decided(gradient, examples=1000) == 1 == decided(gradient), "a later short lane changes nothing"


def test_every_piece_of_a_lane_draws_its_own_random_numbers() -> None:
    drawn: list[torch.Tensor] = []

    class Draws(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(4))
            return super().forward(x)

    gradient, memory = loaded(dataclasses.replace(NOISY, model=lambda: Draws(6, 6), micro_batch=2))
    gradient.lane(arrays(8), memory.slots[0], seed=6)
    assert len(drawn) == 4 == len({tuple(numbers.tolist()) for numbers in drawn})


def test_a_lanes_random_numbers_differ_between_augment_batch_and_model() -> None:
    drawn: list[torch.Tensor] = []

    class Draws(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(4))
            return super().forward(x)

    def drawing(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        drawn.append(torch.rand(4))
        return batch

    data = Data("unused", inputs=("x",), augment_batch=drawing)
    gradient, memory = loaded(dataclasses.replace(NOISY, data=data, model=lambda: Draws(6, 6)))
    for _ in range(2):
        gradient.lane(arrays(), memory.slots[0], seed=6)
    first, second, *again = drawn
    assert torch.equal(torch.stack([first, second]), torch.stack(again)) and not torch.equal(first, second)
