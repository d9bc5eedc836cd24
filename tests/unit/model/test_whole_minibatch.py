"""Losses over the whole minibatch: those of one process that has it all, for any lanes and pieces."""

import itertools
import os
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.contract import gather_in_memory
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.vector import gaps_of, layout_of
from streamtrain.model.gradient import Part
from streamtrain.model.whole_minibatch import _examples_in, _packed, flatten, make_gradient, rebuild
from streamtrain.order import evaluation_slice, evaluation_slices
from streamtrain.values import Lane, Update
from tests.support.pairs import Towers, contrastive, pairs, pairs_job


def one_step(examples: int, lanes: int, micro_batch: int | None) -> tuple[torch.Tensor, Update]:
    made = pairs_job("unused", optimizer=st.SGD(lr=0.5), batch_size=lanes, lanes=lanes, micro_batch=micro_batch)
    gradient = make_gradient(made)
    layout, descent = gradient.layout, Descent.of(made)
    rate = LearningRate(descent.schedule, lanes, 2)
    aggregator = Aggregator(layout, descent, rate_of=rate, worker=0, workers=1)
    exchange = SharedExchange(
        private_memory(layout, descent, Capacity(lanes)), aggregator, [range(lanes)], 0, {0: os.getpid()}
    )
    gradient.write(exchange.state, gradient.model.state_dict())
    gradient.load(exchange.state)
    arrays = pairs(examples)
    cuts = np.linspace(0, examples, lanes + 1).astype(int)
    parts = [{name: each[a:b] for name, each in arrays.items()} for a, b in itertools.pairwise(cuts)]
    gradient.lanes([Part(lane, p if len(p["y"]) else {}, lane) for lane, p in enumerate(parts)], exchange.slot)
    update = exchange.meet()
    return torch.cat([place.view(exchange.state.parameters).flatten() for place in layout.parameters]), update


def textbook(examples: int) -> tuple[torch.Tensor, float]:
    torch.manual_seed(0)
    model = Towers().double()
    a, b, y = (torch.from_numpy(each).double() for each in pairs(examples).values())
    loss = contrastive(model(a, b), y).mean()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    return torch.cat([each.detach().flatten() for each in model.parameters()]), float(loss.detach())


@pytest.mark.parametrize("examples", [1, 5, 32])
@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_contrastive_step_is_the_textbooks(examples: int, lanes: int, micro_batch: int | None) -> None:
    """Also where lanes have no example."""
    found, update = one_step(examples, lanes, micro_batch)
    expected, loss = textbook(examples)
    names = [place.name for place in layout_of(Towers()).parameters]
    sizes = dict(Towers().named_parameters())
    expected_by_name = dict(zip(sizes, expected.split([each.numel() for each in sizes.values()]), strict=True))
    ordered = torch.cat([expected_by_name[name] for name in names])
    torch.testing.assert_close(found, ordered, rtol=1e-9, atol=1e-9)
    assert update.loss.mean == pytest.approx(loss, rel=1e-9) and update.loss.count == examples


def test_random_numbers_of_a_lane_are_the_same_on_both_ways() -> None:
    """With dropout: the loss that is differentiated is that of the outputs that met."""

    class Dropped(Towers):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            left, others = super().forward(torch.nn.functional.dropout(a, 0.5, self.training), b)
            seen.append(left.detach().clone())
            return left, others

    seen: list[torch.Tensor] = []
    made = pairs_job("unused", batch_size=2, lanes=2, micro_batch=3)
    gradient = make_gradient(st.Job(made.data, Dropped, loss=contrastive, loss_over="minibatch", micro_batch=3))
    memory = private_memory(gradient.layout, Descent.of(made), Capacity(2))
    gradient.write(memory.states[0], gradient.model.state_dict())
    gradient.load(memory.states[0])
    gradient.lanes([Part(0, pairs(5), 7), Part(1, pairs(4), 9)], lambda lane: memory.slots[lane])
    assert len(seen) == 8 and all(torch.equal(a, b) for a, b in zip(seen[:4], seen[4:], strict=True))
    assert not torch.equal(seen[0], seen[2]), "lanes have random numbers of their own"


class Meeting:
    """Of threads in place of processes."""

    def __init__(self, workers: int) -> None:
        self._barrier = threading.Barrier(workers)

    def wait(self) -> None:
        self._barrier.wait(60)

    def abandon(self) -> None:
        self._barrier.abort()


@pytest.mark.parametrize("largest", [0, 100, 5000])
def test_bytes_meet_through_slots_in_as_many_rounds_as_they_need(largest: int) -> None:
    """A gradient here has 1,024 bytes; its gaps are 0 afterwards."""
    model = torch.nn.Linear(100, 1)
    layout, descent = layout_of(model), Descent.of(pairs_job("unused"))
    memory = private_memory(layout, descent, Capacity(4))
    generator = torch.Generator().manual_seed(0)
    given = [torch.randint(0, 256, (largest * lane // 3,), dtype=torch.uint8, generator=generator) for lane in range(4)]
    hosting, meeting, gaps = [range(1), range(1, 4)], Meeting(2), gaps_of(layout)
    found: dict[int, list[torch.Tensor]] = {}

    def work(worker: int) -> None:
        mine = {lane: given[lane] for lane in hosting[worker]}
        found[worker] = gather_in_memory(memory.slots, gaps, meeting, mine)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found.values():
        assert all(torch.equal(a, b) for a, b in zip(each, given, strict=True))
    assert len(found) == 2 and all(not slot.gradient[gaps].any() for slot in memory.slots)


def test_outputs_are_taken_apart_and_put_together() -> None:
    Pair = namedtuple("Pair", "first second")
    value = Pair(torch.ones(2), [{"a": torch.zeros(3)}, (torch.arange(4),)])
    again = rebuild(value, iter(flatten(value)))
    assert type(again) is Pair and again.second[0]["a"].shape == (3,) and again.second[1][0] is value.second[1][0]
    with pytest.raises(st.JobError, match="the model's output: expected tensors with the examples first.*found int"):
        flatten((torch.ones(2), 3))


def test_evaluations_of_whole_minibatches_have_groups_of_one_size() -> None:
    size = evaluation_slice(100, 24)
    held_out = evaluation_slices([Lane(0, 0, 100)], 100, size)
    assert [stop - start for start, stop in held_out] == [25, 25, 25, 25]
    for seed in range(5):
        used = [Lane(0, 0, 130), Lane(1, 200, 300)]
        drawn = evaluation_slices(used, 100, size, seed, whole=True)
        assert [stop - start for start, stop in drawn] == [25] * 4 and drawn == tuple(sorted(drawn))
        assert all(any(r.start <= start and stop <= r.stop for r in used) for start, stop in drawn)
    assert evaluation_slices([Lane(0, 0, 10)], 100, size, whole=True) == ((0, 10),)


def test_lanes_whose_outputs_differ_in_form_are_refused_also_where_their_bytes_go_into_each_other() -> None:
    """As padded sequences do that are not pooled: one lane's are twice as long."""
    gradient = make_gradient(pairs_job("unused", lanes=2, batch_size=8))
    packed = [_packed([torch.zeros(2, length, 3), torch.zeros(2, length)], torch.device("cpu")) for length in (4, 8)]
    form = [torch.zeros(2, 4, 3), torch.zeros(2, 4)]
    assert _examples_in(packed[0], form) == 2 and _examples_in(packed[0][:0], form) == 0
    said = r"expected one form for all lanes, as \(4, 3\), \(4,\), found \(8, 3\), \(8,\) in one; pad to one size"
    with pytest.raises(st.JobError, match=said):
        gradient._losses_of_all(packed, (form[0], form[1]), form)
