"""The norms that come out of the exchange, against autograd in float64, with several workers."""

import math
import os
import threading

import numpy as np
import pytest
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.norms import StepNorms
from streamtrain.aggregate.descent.rules import CHUNK, Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.moments import write_moments
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of, write
from streamtrain.job import Clip
from streamtrain.order import hosting_of
from streamtrain.values import LayerNorms, Moments, Norms, Update
from tests.support.slots import leave

LANES, STEPS, EVERY = 3, 4, 2
COUNTS = [[5, 5, 5], [5, 5, 5], [5, 5, 5], [4, 3, 0]]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(280, 270), torch.nn.Tanh(), torch.nn.Linear(270, 3)).double()


def examples(step: int, lane: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + lane)
    count = COUNTS[step][lane]
    return (
        torch.randn(count, 280, generator=generator, dtype=torch.float64),
        torch.randn(count, 3, generator=generator, dtype=torch.float64),
    )


def summed_loss(net: torch.nn.Module, step: int, lane: int) -> torch.Tensor:
    x, y = examples(step, lane)
    loss: torch.Tensor = (net(x) - y).square().sum()
    return loss


def exchanged(
    workers: int, descent: Descent, *, norms_every: int = EVERY, own_every: int = 0
) -> tuple[list[Update], list[list[torch.Tensor]]]:
    """Updates, and of every step each lane's summed gradient as one vector without gaps."""
    layout = layout_of(model())
    memory = private_memory(layout, descent, Capacity(LANES, workers))
    write(layout.parameters, dict(model().named_parameters()), memory.states[0].parameters)
    updates: list[Update] = []
    flat: list[list[torch.Tensor]] = [[torch.empty(0)] * LANES for _ in range(STEPS)]

    def work(worker: int) -> None:
        processes = dict.fromkeys(range(workers), os.getpid())
        hosting = hosting_of(LANES, workers)
        aggregator = Aggregator(
            layout,
            descent,
            rate_of=LearningRate(descent.schedule, 15, STEPS),
            worker=worker,
            workers=workers,
            norms_every=norms_every,
            own_every=own_every,
        )
        exchange = SharedExchange(memory, aggregator, hosting, worker, processes)
        net = model()
        for step in range(STEPS):
            for place in layout.parameters:
                net.get_parameter(place.name).data = place.view(exchange.state.parameters)
            for lane in hosting[worker]:
                slot = exchange.slot(lane)
                gradients = torch.autograd.grad(summed_loss(net, step, lane), list(net.parameters()))
                flat[step][lane] = torch.cat([each.flatten() for each in gradients])
                vector = torch.zeros(layout.size, dtype=layout.dtype)
                for place, gradient in zip(layout.parameters, gradients, strict=True):
                    place.view(vector).copy_(gradient)
                leave(slot, vector)
                slot.used.fill(1)
                count = COUNTS[step][lane]
                write_moments(slot, Moments(count, 1.0), Moments(count))
            update = exchange.meet()
            if worker == 0:
                updates.append(update)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return updates, flat


def squares(tensors: list[torch.Tensor]) -> float:
    return math.fsum(float(tensor.square().sum()) for tensor in tensors)


def textbook(descent: Descent) -> list[Norms]:
    """Norms of every step's parts, of a plain loop."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=0.1)
    norms = []
    for step in range(STEPS):
        sums = [torch.autograd.grad(summed_loss(net, step, lane), list(net.parameters())) for lane in range(LANES)]
        total = sum(COUNTS[step])
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        for index, parameter in enumerate(net.parameters()):
            parameter.grad = sum(lane[index] for lane in sums) / total  # type: ignore[assignment]
        means = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        if descent.clip.value is not None:
            torch.nn.utils.clip_grad_value_(net.parameters(), descent.clip.value)
        torch.nn.utils.clip_grad_norm_(net.parameters(), descent.clip.norm or math.inf)
        optimizer.step()
        layers = {
            name: LayerNorms(squares([means[name]]), squares([before[name]]), squares([p.detach() - before[name]]))
            for name, p in net.named_parameters()
        }
        counted = zip(COUNTS[step], sums, strict=True)
        norms.append(Norms(tuple((n, squares([g / n for g in lane])) for n, lane in counted if n), layers))
    return norms


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_norms_are_those_of_a_plain_loop(workers: int) -> None:
    descent = Descent(SGD(lr=0.01, momentum=0.9, weight_decay=0.1), clip=Clip(norm=1.0, value=0.2))
    updates = exchanged(workers, descent)[0]
    assert layout_of(model()).size > 2 * CHUNK, "the first weight must be cut at chunk borders"
    due = StepNorms(layout_of(model()), (), EVERY).is_due
    assert [update.norms is not None for update in updates] == [due(step) for step in range(STEPS)]
    for update, expected in zip(updates, textbook(descent), strict=True):
        if update.norms is None:
            continue
        assert update.norms.lanes == tuple((n, pytest.approx(s, rel=1e-9)) for n, s in expected.lanes)
        assert list(update.norms.layers) == list(expected.layers)
        for name, layer in update.norms.layers.items():
            assert layer.gradient == pytest.approx(expected.layers[name].gradient, rel=1e-9), name
            assert layer.parameters == pytest.approx(expected.layers[name].parameters, rel=1e-9), name
            assert layer.update == pytest.approx(expected.layers[name].update, rel=1e-6), name
        assert update.norms.total.gradient == pytest.approx(sum(n.gradient for n in expected.layers.values()))


def test_norms_have_the_same_bits_for_any_number_of_workers() -> None:
    runs = [exchanged(workers, Descent(SGD(lr=0.01)))[0] for workers in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]
    assert sum(update.norms is not None for update in runs[0]) == STEPS // EVERY


def test_norms_are_taken_once_in_every_block_and_meet_all_minibatches_of_a_pass() -> None:
    norms = StepNorms(layout_of(model()), (), 10)
    due = [step for step in range(10_000) if norms.is_due(step)]
    assert [step // 10 for step in due] == list(range(1000))
    met = np.bincount([step % 10 for step in due])
    assert len(met) == 10 and np.all(np.abs(met - 100) < 5 * (100 * 0.9) ** 0.5)
