"""Which lanes go through the stages of a step together, and that it makes no difference to any bit."""

import dataclasses
import functools

import pytest
import torch

from streamtrain import gradient as gradient_module
from streamtrain.aggregate.exchange.memory import Memory, block_size, private_block
from streamtrain.gradient import Gradient, Part
from streamtrain.job import Data, Job
from tests.unit.test_gradient import arrays, loaded


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


def shifted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An augmentation that draws a number for each example."""
    return {**batch, "x": batch["x"] + torch.rand(len(batch["x"]), 1)}


NOISY = Job(Data("unused", inputs=("x",), transform=shifted), Noisy, precision="float64", batch_size=2)


def lanes_filled(job: Job, together: int | None) -> tuple[Gradient, Memory]:
    """Five lanes, one of them without examples, of which so many go together at most."""
    gradient = Gradient(job)
    memory = Memory(gradient.layout, job.sgd, 5, 1, private_block(block_size(gradient.layout, job.sgd, 5, 1)))
    gradient.write(memory.states[0], gradient.model.state_dict())
    gradient.load(memory.states[0])
    if together is not None:
        gradient._together = together
    parts = [Part(lane, {} if lane == 2 else arrays(3 + lane, seed=lane), seed=8 * lane) for lane in range(5)]
    gradient.lanes(iter(parts), lambda lane: memory.slots[lane])
    return gradient, memory


@pytest.mark.parametrize("together", [None, 2, 3, 8])
def test_no_bit_depends_on_which_lanes_go_together(together: int | None) -> None:
    _, alone = lanes_filled(NOISY, 1)
    gradient, memory = lanes_filled(NOISY, together)
    assert (gradient._together or 0) > 1
    for one, other in zip(alone.slots, memory.slots, strict=True):
        assert torch.equal(one.gradient.view(torch.int64), other.gradient.view(torch.int64))
        assert one.moments.tolist() == other.moments.tolist() and one.used.tolist() == other.used.tolist()
    assert memory.slots[2].moments[0] == 0 and not memory.slots[2].gradient.any() and memory.slots[1].moments[0] == 4


def test_lanes_of_a_model_with_buffers_go_one_by_one() -> None:
    """What autograd kept of a buffer must not have changed before the backward."""
    gradient, memory = lanes_filled(dataclasses.replace(NOISY, model=functools.partial(Noisy, buffer=True)), None)
    assert gradient._together == 1 and memory.slots[4].gradient.any()


def test_lanes_that_keep_much_for_their_backward_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (6 + 6 + 6 + 6) * 3 * 8  # three examples: input, twice the hidden layer or its mask, log-probabilities
    monkeypatch.setattr(gradient_module, "TOGETHER_BYTES", 4 * kept)
    some, _ = lanes_filled(NOISY, None)
    monkeypatch.setattr(gradient_module, "TOGETHER_BYTES", kept // 2)
    none, _ = lanes_filled(NOISY, None)
    assert 2 <= (some._together or 0) <= 4 and none._together == 1


def test_a_lanes_random_numbers_differ_between_transform_and_model() -> None:
    drawn: list[torch.Tensor] = []

    class Draws(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(4))
            return super().forward(x)

    def transform(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        drawn.append(torch.rand(4))
        return batch

    data = Data("unused", inputs=("x",), transform=transform)
    gradient, memory = loaded(dataclasses.replace(NOISY, data=data, model=lambda: Draws(6, 6)))
    for _ in range(2):
        gradient.lane(arrays(), memory.slots[0], seed=6)
    first, second, *again = drawn
    assert torch.equal(torch.stack([first, second]), torch.stack(again)) and not torch.equal(first, second)
