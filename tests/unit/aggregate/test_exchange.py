"""The exchange of one host against `torch.optim.SGD`, with workers as threads."""

import os
import threading
from collections.abc import Callable

import pytest
import torch

from streamtrain.aggregate.host import HostExchange
from streamtrain.aggregate.memory import CHUNK, Memory, block_size, private_block
from streamtrain.aggregate.vector import Layout, layout_of, write
from streamtrain.errors import NonFiniteError, WorkerLost
from streamtrain.job import SGD, Schedule
from streamtrain.order import lanes_of_worker
from streamtrain.values import Update

STEPS = 12
LANES = 4


class Model(torch.nn.Module):
    """Several chunks, a tied and a frozen parameter, and one that is used in odd steps only."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.wide = torch.nn.Linear(300, 250, dtype=dtype)
        self.tied = self.wide
        self.frozen = torch.nn.Linear(3, 3, dtype=dtype).requires_grad_(False)
        self.seldom = torch.nn.Linear(250, 5, dtype=dtype)


def gradients_of(model: Model, step: int, lane: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + lane)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) * 3
        for name, p in model.named_parameters()
        if p.requires_grad and (step % 2 or not name.startswith("seldom"))
    }


def examples_of(step: int, lane: int) -> int:
    """The last minibatch is short, and its last lane empty."""
    return 8 if step < STEPS - 1 else (3 if lane < LANES - 1 else 0)


def textbook(model: Model, sgd: SGD, rates: list[float]) -> dict[str, torch.Tensor]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(
        parameters.values(), lr=1.0, momentum=sgd.momentum, nesterov=sgd.nesterov, weight_decay=sgd.weight_decay
    )
    for step, rate in enumerate(rates):
        optimizer.zero_grad(set_to_none=True)
        examples = sum(examples_of(step, lane) for lane in range(LANES))
        for lane in range(LANES):
            if examples_of(step, lane):
                for name, gradient in gradients_of(model, step, lane).items():
                    grad = parameters[name].grad
                    parameters[name].grad = gradient / examples + (0 if grad is None else grad)
        if sgd.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters.values(), sgd.clip_value)
        if sgd.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), sgd.clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def contribute(exchange: HostExchange, layout: Layout, model: Model, lane: int, loss: float = 1.0) -> None:
    slot, step = exchange.slot(lane), exchange.step
    count = examples_of(step, lane)
    if not count:
        for tensor in (slot.gradient, slot.used, slot.moments):
            tensor.zero_()
        return
    gradients = gradients_of(model, step, lane)
    for index, place in enumerate(layout.parameters):
        slot.used[index] = place.name in gradients
        place.view(slot.gradient).copy_(gradients.get(place.name, torch.zeros(place.shape)))
    slot.moments.copy_(torch.tensor([count, loss, 0.0, count, 0.0, 0.0], dtype=torch.float64))


def run(
    sgd: SGD, workers: int, dtype: torch.dtype, each: Callable[[HostExchange, Layout, Model, int], None] = contribute
) -> tuple[Memory, Layout, list[list[Update]], list[BaseException]]:
    """All workers as threads on one private block, STEPS steps."""
    layout = layout_of(Model(dtype))
    memory = Memory(layout, LANES, workers, private_block(block_size(layout, LANES, workers)))
    write(layout.parameters, dict(Model(dtype).named_parameters()), memory.halves[0].parameters)
    done: list[list[Update]] = [[] for _ in range(workers)]
    errors: list[BaseException] = []
    processes = dict.fromkeys(range(workers), os.getpid())

    def work(worker: int) -> None:
        exchange = HostExchange(memory, layout, sgd, STEPS, worker, processes)
        model = Model(dtype)
        try:
            for _ in range(STEPS):
                for lane in lanes_of_worker(LANES, workers, worker):
                    each(exchange, layout, model, lane)
                done[worker].append(exchange.meet())
        except BaseException as error:
            exchange.abandon()
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return memory, layout, done, errors


SETTINGS = {
    "plain": SGD(lr=0.1),
    "momentum": SGD(lr=0.1, momentum=0.9),
    "nesterov": SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "weight decay": SGD(lr=0.1, weight_decay=0.1),
    "clip norm": SGD(lr=0.1, momentum=0.9, clip_norm=5.0),
    "clip value": SGD(lr=0.1, clip_value=0.2),
    "both clips": SGD(lr=0.1, momentum=0.5, weight_decay=0.01, clip_value=0.2, clip_norm=2.0),
    "schedule": SGD(lr=0.3, momentum=0.9, schedule=Schedule("cosine", warmup_steps=4, floor=0.1)),
}


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_promise_4_the_update_is_the_textbooks(name: str, workers: int) -> None:
    memory, layout, done, errors = run(SETTINGS[name], workers, torch.float64)
    assert not errors
    expected = textbook(Model(torch.float64), SETTINGS[name], [update.learning_rate for update in done[0]])
    final = memory.halves[STEPS % 2].parameters
    for place in layout.parameters:
        torch.testing.assert_close(place.view(final), expected[place.name], rtol=1e-9, atol=1e-12)


def test_promise_5_same_bits_with_any_number_of_workers() -> None:
    memory, _, done, _ = run(SETTINGS["both clips"], 1, torch.float32)
    one = memory.halves[STEPS % 2]
    for workers in (2, 3, 4):
        memory, _, theirs, _ = run(SETTINGS["both clips"], workers, torch.float32)
        other = memory.halves[STEPS % 2]
        assert len(theirs[0]) == STEPS and theirs[0] == done[0]
        assert torch.equal(one.parameters, other.parameters) and torch.equal(one.momentum, other.momentum)


def test_all_workers_see_the_same_updates() -> None:
    _, layout, done, _ = run(SETTINGS["clip norm"], 3, torch.float32)
    assert layout.size > 2 * CHUNK
    assert done[0] == done[1] == done[2]
    assert done[0][-1].loss.count == 9 and done[0][-1].clip_scale < 1


@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_promise_6_a_non_finite_step_happens_not_at_all(where: str, value: float) -> None:
    def each(exchange: HostExchange, layout: Layout, model: Model, lane: int) -> None:
        bad = exchange.step == 5 and lane == 2
        contribute(exchange, layout, model, lane, loss=value if bad and where == "loss" else 1.0)
        if bad and where == "gradient":
            exchange.slot(lane).gradient[7] = value

    memory, _, done, errors = run(SETTINGS["momentum"], 2, torch.float32, each)
    assert len(errors) == 2
    root = next(error for error in errors if isinstance(error, NonFiniteError))
    assert str(root).startswith("step 5: expected a finite loss and gradient, found loss")
    assert memory.words[0] == 5 and len(done[0]) == 5
    assert torch.isfinite(memory.halves[1].parameters).all() and torch.isfinite(memory.halves[1].momentum).all()


def test_a_worker_that_gives_up_is_noticed_by_those_who_wait() -> None:
    def each(exchange: HostExchange, layout: Layout, model: Model, lane: int) -> None:
        if exchange.step == 3 and lane == LANES - 1:
            raise RuntimeError("mine")
        contribute(exchange, layout, model, lane)

    memory, _, _, errors = run(SETTINGS["plain"], 2, torch.float32, each)
    lost = [error for error in errors if isinstance(error, WorkerLost)]
    assert [str(error) for error in lost] == ["worker 1 gave up, so the others cannot go on"]
    assert memory.words[0] == 3
