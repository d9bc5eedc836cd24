"""A worker's lanes are added up as they come: the bits of the tree, in as many vectors as it is deep."""

import functools

import pytest
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.clip import squared_norm
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import LaneSums
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.tree import left_nodes, right_turns, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import layout_of
from streamtrain.job import Data, Job, Schedule
from streamtrain.model.gradient import Gradient, Part
from streamtrain.model.gradient_sums import LaneGradients
from streamtrain.order import lanes_of_worker


def deep() -> torch.nn.Module:
    return torch.nn.Sequential(*[torch.nn.Linear(6, 6) for _ in range(5)])


@pytest.mark.parametrize("norms_every", [0, 1])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("lanes", range(1, 18))
def test_a_workers_lanes_are_added_up_as_they_come_with_the_bits_of_the_tree(
    lanes: int, workers: int, norms_every: int
) -> None:
    draw = torch.Generator().manual_seed(lanes)
    parts = [torch.randn(64, generator=draw) if lane % 5 != 3 else None for lane in range(lanes)]
    whole = [torch.zeros(64) if part is None else part for part in parts]
    linear = torch.nn.Linear(64, 1, bias=False)
    layout, descent = layout_of(linear), Descent(SGD())
    memory = private_memory(layout, descent, Capacity(lanes))
    gradients = LaneGradients([linear.weight], lambda vector: [p.view(vector) for p in layout.parameters], early=False)
    for worker in range(workers):
        hosted = lanes_of_worker(lanes, workers, worker)
        nodes = whole_subtrees(lanes, hosted)
        aggregator = Aggregator(
            layout, descent, rate_of=LearningRate(Schedule(), 1, 1), worker=0, workers=1, norms_every=norms_every
        )
        sums = LaneSums(aggregator, memory.slots, nodes)
        for _ in range(2):
            written = set()
            for lane in hosted:
                part = parts[lane]
                slot = sums.slot(0, lane, memory.states[0])
                gradients.leave(slot, [None if part is None else part.clone().view(1, 64)])
                written.add(slot.gradient.data_ptr())
            sums.end(0, memory.states[0], apart=False)
            depth = max((len(left_nodes(node, lane)) for node in nodes for lane in range(*node)), default=0)
            assert len(written) <= len(nodes) + depth
            for start, stop in nodes:
                expected = tree_sum_([part.clone() for part in whole[start:stop]])
                assert torch.equal(memory.slots[start].gradient.view(torch.int32), expected.view(torch.int32))
        for lane in hosted if norms_every else ():
            assert memory.slots[lane].squared_norms[0] == squared_norm(whole[lane])


@pytest.mark.parametrize("lanes", range(1, 40))
def test_sums_that_wait_at_once_have_places_of_their_own(lanes: int) -> None:
    waiting: dict[int, int] = {}
    for lane in range(lanes):
        waiting[lane] = right_turns((0, lanes), lane)
        for start, middle in left_nodes((0, lanes), lane):
            del waiting[middle]
            assert start in waiting
        assert len(set(waiting.values())) == len(waiting)
    assert waiting == {0: 0}


def test_gradients_are_let_go_while_backward_makes_others(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(Data("unused", inputs=("x",)), deep)
    slots, found = {}, []
    grad = torch.autograd.grad

    def noted(*arguments: object, **settings: object) -> tuple[torch.Tensor, ...]:
        gradients: tuple[torch.Tensor, ...] = grad(*arguments, **settings)  # type: ignore[arg-type]
        found.append(gradients)
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", noted)
    monkeypatch.setattr("streamtrain.model.gradient.LARGE_BYTES", 0)
    for early in (True, False):
        gradient = Gradient(job)
        if not early:
            gradient._lane_gradients = LaneGradients(gradient.parameters, gradient._views_of, early=False)
        memory = private_memory(gradient.layout, Descent(SGD()), Capacity(4))
        gradient.write(memory.states[0], gradient.model.state_dict())
        gradient.load(memory.states[0])
        aggregator = Aggregator(gradient.layout, Descent(), rate_of=LearningRate(Schedule(), 4, 1), worker=0, workers=1)
        sums = LaneSums(aggregator, memory.slots, [(0, 4)])
        draw = torch.Generator().manual_seed(0)
        arrays = [{"x": torch.randn(3, 6, generator=draw), "label": torch.arange(3)} for _ in range(4)]
        of = functools.partial(sums.slot, 0, state=memory.states[0])
        gradient.lanes((Part(lane, arrays[lane], lane) for lane in range(4)), of)
        sums.end(0, memory.states[0], apart=False)
        slots[early] = memory.slots[0].gradient
    assert torch.equal(slots[True].view(torch.int32), slots[False].view(torch.int32)) and slots[True].any()
    held = [sum(each.untyped_storage().nbytes() for each in gradients) for gradients in found]
    assert held == [4 * 10] * 4 + [4 * 5 * 42] * 4, "a number in place of every parameter's gradient"
