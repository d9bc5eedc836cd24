"""The order, in small cases written out by hand."""

import itertools

import numpy as np
import pytest

from streamtrain.order import (
    Order,
    SegmentedOrder,
    evaluation_batches,
    evaluation_slices,
    lane_seed,
    lanes_of,
    lanes_of_worker,
)
from streamtrain.values import Lane, LanePart, Position


def test_first_lanes_have_one_example_more() -> None:
    assert lanes_of(11, 3) == (Lane(0, 0, 4), Lane(1, 4, 8), Lane(2, 8, 11))


def test_minibatch_takes_the_next_examples_of_every_lane() -> None:
    order = Order(examples=20, lanes=2, batch_size=6)
    assert order.minibatch(Position(0, 1)).parts == (LanePart(0, 3, 6), LanePart(1, 13, 16))


def test_last_minibatch_is_short() -> None:
    order = Order(examples=11, lanes=2, batch_size=4)
    assert order.steps == 3
    last = order.minibatch(Position(0, 2))
    assert last.parts == (LanePart(0, 4, 6), LanePart(1, 10, 11))
    assert last.examples == 3 and order.smallest().smallest_part == 1


def test_a_lane_may_be_empty_in_the_last_minibatch() -> None:
    last = Order(examples=5, lanes=2, batch_size=4).minibatch(Position(0, 1))
    assert [part.examples for part in last.parts] == [1, 0]


def test_used_examples_are_the_first_of_every_lane() -> None:
    order = Order(examples=20, lanes=2, batch_size=4, used=7)
    assert order.ranges == (Lane(0, 0, 4), Lane(1, 10, 13))
    assert [order.minibatch(Position(0, step)).examples for step in range(order.steps)] == [4, 3]


def test_position_and_global_step_are_inverse_and_a_finished_pass_is_the_next_ones_start() -> None:
    order = Order(examples=11, lanes=1, batch_size=4)
    assert order.position(3) == Position(1, 0)
    assert [order.global_step(order.position(step)) for step in range(10)] == list(range(10))
    assert [order.examples_before(order.position(step)) for step in range(5)] == [0, 4, 8, 11, 15]


def test_no_step_beyond_the_pass() -> None:
    with pytest.raises(IndexError, match="step 3 of a pass of 3"):
        Order(examples=11, lanes=1, batch_size=4).minibatch(Position(0, 3))


def test_batch_size_must_divide_by_lanes() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        Order(examples=10, lanes=3, batch_size=4)


def test_workers_host_contiguous_lanes() -> None:
    assert [list(lanes_of_worker(8, 3, worker)) for worker in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_evaluation_slices_spread_over_the_used_ranges() -> None:
    ranges = (Lane(0, 0, 10), Lane(1, 100, 110))
    assert evaluation_slices(ranges, wanted=99, slice_size=15) == ((0, 10), (100, 110))
    assert evaluation_slices((), wanted=5, slice_size=2) == ()
    many = [Lane(0, 3 * n, 3 * n + n % 3) for n in range(50_000)]  # some of them empty; looked at one by one, minutes
    whole = evaluation_slices(many, wanted=10**9, slice_size=7)
    assert [n for start, stop in whole for n in range(start, stop)] == [n for r in many for n in range(r.start, r.stop)]
    part = [n for start, stop in evaluation_slices(many, 1000, 7, seed=3) for n in range(start, stop)]
    assert len(part) == len(set(part)) == 1000 and all(n % 3 < n // 3 % 3 for n in part)
    taken = np.zeros(20)
    for seed in range(2000):
        numbers = [n for start, stop in evaluation_slices(ranges, 6, 2, seed) for n in range(start, stop)]
        taken[[n if n < 10 else n - 90 for n in numbers]] += 1
    assert taken.sum() == 12_000 and np.all(np.abs(taken / 2000 - 0.3) < 5 * (0.3 * 0.7 / 2000) ** 0.5)


@pytest.mark.parametrize("examples", [1, 30, 1000, 10_000, 70_000])
@pytest.mark.parametrize("most", [0, 1, 8, 500])
def test_slices_go_together_as_far_as_they_may_and_workers_still_share_them(examples: int, most: int) -> None:
    slices = evaluation_slices([Lane(0, 0, examples * 2)], examples, 157, seed=1)
    batches = evaluation_batches(slices, most)
    assert [each for batch in batches for each in batch] == [*slices]
    sizes = [[stop - start for start, stop in batch] for batch in batches]
    assert all(len(batch) == 1 or sum(batch) <= min(most, -(-examples // 16)) for batch in sizes)
    for batch, following in itertools.pairwise(sizes):
        assert sum(batch) + following[0] > min(most, examples // 16)
    assert evaluation_batches((), most) == []


@pytest.mark.parametrize(
    ("examples", "wanted", "lanes"), [(56000, 7000, 2), (8000, 500, 1), (8000, 1000, 2), (16000, 2000, 4)]
)
def test_what_is_looked_at_is_spread_over_the_pass_of_every_lane(examples: int, wanted: int, lanes: int) -> None:
    order = Order(examples, lanes, 8 * lanes)
    for seed in range(20):
        slices = evaluation_slices(order.ranges, wanted, 500, seed)
        seen = np.concatenate([np.arange(start, stop) for start, stop in slices])
        for each in order.ranges:
            inside = seen[(seen >= each.start) & (seen < each.stop)]
            place = (inside - each.start) / (each.stop - each.start)
            assert len(place) > 0.5 * wanted / lanes and abs(place.mean() - 0.5) < 0.05


def test_only_used_examples_count_as_used() -> None:
    order = Order(examples=21, lanes=2, batch_size=4)
    assert order.used_before(0) == (Lane(0, 0, 0), Lane(1, 11, 11))
    assert order.used_before(2) == (Lane(0, 0, 4), Lane(1, 11, 15))
    assert order.used_before(order.steps) == order.used_before(999) == order.ranges
    grown = SegmentedOrder([4, 0, 6], lanes=2, batch_size=2)
    for step in range(grown.steps + 1):
        parts = [part for at in range(step) for part in grown.minibatch(Position(0, at)).parts]
        numbers = sorted(number for part in parts for number in range(part.start, part.stop))
        assert sorted(n for lane in grown.used_before(step) for n in range(lane.start, lane.stop)) == numbers


def test_lane_seeds_differ_by_seed_step_and_lane() -> None:
    seeds = {lane_seed(seed, step, lane) for seed in range(8) for step in range(64) for lane in range(16)}
    assert len(seeds) == 8 * 64 * 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert lane_seed(1, 2, 3) == lane_seed(1, 2, 3)
