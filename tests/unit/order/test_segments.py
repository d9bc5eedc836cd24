"""Data that grows: each segment in turn, the same minibatches whenever it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order.minibatches.minibatch import Order
from streamtrain.order.minibatches.segments import SegmentedOrder
from streamtrain.values import Position


def numbers(order: SegmentedOrder | Order, steps: range) -> list[list[int]]:
    return [
        [n for part in order.minibatch(order.position(step)).parts for n in range(part.start, part.stop)]
        for step in steps
    ]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any), st.integers(1, 4), st.integers(1, 9))
def test_promise_3_and_7_each_example_once_segment_after_segment(sizes: list[int], lanes: int, each: int) -> None:
    order = SegmentedOrder(sizes, lanes, lanes * each)
    taken = numbers(order, range(order.steps))
    assert sorted(n for minibatch in taken for n in minibatch) == list(range(sum(sizes)))
    flat, end = [n for minibatch in taken for n in minibatch], 0
    for size in sizes:
        assert sorted(flat[end : end + size]) == list(range(end, end + size)), "a segment ends before the next begins"
        end += size
    before = 0
    for step, minibatch in enumerate(taken):
        assert order.examples_before(order.position(step)) == before
        before += len(minibatch)
    assert order.examples_before(order.position(order.steps)) == order.used == sum(sizes)
    assert order.smallest().smallest_part == min(
        part.examples
        for step in range(order.steps)
        for part in order.minibatch(order.position(step)).parts
        if part.examples
    )


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.integers(1, 4))
def test_a_grown_order_begins_as_it_was(sizes: list[int], lanes: int) -> None:
    small, grown = (SegmentedOrder(part, lanes, lanes * 4) for part in (sizes[:-1], sizes))
    assert numbers(grown, range(small.steps)) == numbers(small, range(small.steps))


def test_one_segment_is_a_plain_order() -> None:
    segmented, plain = SegmentedOrder([57], 3, 12), Order(57, 3, 12)
    assert segmented.steps == plain.steps
    assert numbers(segmented, range(plain.steps)) == numbers(plain, range(plain.steps))
    with pytest.raises(IndexError):
        segmented.minibatch(Position(0, plain.steps))
