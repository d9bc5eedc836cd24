"""Promises 2 and 3 as arithmetic, over many sizes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order import (
    Order,
    Reshuffle,
    SegmentedOrder,
    evaluation_slices,
    lanes_of_worker,
    passes_of,
    select_lanes,
)
from streamtrain.values import Position


@st.composite
def orders(draw: st.DrawFn, most_sizes: int = 1) -> Order:
    lanes = draw(st.integers(1, 12))
    examples = draw(st.integers(1, 500))
    return Order(
        examples=examples,
        lanes=lanes,
        batch_size=lanes * draw(st.integers(1, 20)),
        used=draw(st.integers(1, examples)),
        later=tuple((70 * each, lanes * draw(st.integers(1, 20))) for each in range(1, most_sizes)),
    )


@given(orders(), st.integers(0, 3))
def test_promise_3_every_example_is_used_exactly_once_in_a_pass(order: Order, pass_index: int) -> None:
    used = [
        number
        for step in range(order.steps)
        for part in order.minibatch(Position(pass_index, step)).parts
        for number in range(part.start, part.stop)
    ]
    assert len(used) == len(set(used)) == order.used
    assert set(used) == {number for lane in order.ranges for number in range(lane.start, lane.stop)}


@given(orders())
def test_promise_3_only_the_last_minibatch_is_short_and_none_is_empty(order: Order) -> None:
    sizes = [order.minibatch(Position(0, step)).examples for step in range(order.steps)]
    assert sizes[:-1] == [order.batch_size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= order.batch_size


@given(orders(), st.integers(1, 16))
def test_promise_2_the_minibatches_do_not_depend_on_the_number_of_workers(order: Order, workers: int) -> None:
    for step in range(order.steps):
        parts = order.minibatch(Position(0, step)).parts
        hosted = [lanes_of_worker(order.lanes, workers, worker) for worker in range(workers)]
        met = tuple(part for lanes in hosted for part in parts[lanes.start : lanes.stop])
        assert met == parts


@st.composite
def growing_orders(draw: st.DrawFn) -> SegmentedOrder:
    lanes = draw(st.integers(1, 5))
    segments = draw(st.lists(st.sampled_from([0, 1, 2, 7, 31, 97, 100]), min_size=1, max_size=5).filter(any))
    return SegmentedOrder(segments, lanes, lanes * draw(st.integers(1, 9)))


@given(
    st.one_of(orders(), orders(most_sizes=4), growing_orders()),
    st.sampled_from(["stored", "shards", "examples"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(-1, 1),
    st.integers(0, 40),
)
def test_promise_2_another_number_of_workers_goes_on_with_the_rest(
    order: Order | SegmentedOrder, reshuffle: Reshuffle, before: int, after: int, about: int, more: int
) -> None:
    """Stopped at, before and after a pass's border, and elsewhere; compared step by step, without sorting."""
    whole = isinstance(order, Order) and order.used == order.examples
    passes = passes_of(reshuffle if whole else "stored", order.examples, [0, order.examples // 2, order.examples], 3)
    total = order.steps_before(3 if isinstance(order, Order) else 1)
    stop = min(max(0, order.steps + about + more * (more % 2)), total)

    def read(workers: int, first: int, last: int) -> list[list[int]]:
        hosted = [lanes_of_worker(order.lanes, workers, worker) for worker in range(workers)]
        streams = [select_lanes(order, passes, lanes, first, last) for lanes in hosted]
        steps = []
        for step in range(first, last):
            numbers: list[int] = []
            for lanes, stream in zip(hosted, streams, strict=True):
                for part in order.minibatch(order.position(step)).parts[lanes.start : lanes.stop]:
                    numbers += next(stream).each().tolist() if part.examples else []
            steps.append(numbers)
        assert all(next(stream, None) is None for stream in streams), "nobody reads more"
        return steps

    straight = read(1, 0, total)
    assert read(before, 0, stop) + read(after, stop, total) == straight
    if isinstance(order, SegmentedOrder):
        assert sorted(itertools.chain(*straight)) == list(range(order.examples))


@given(st.one_of(orders(), orders(most_sizes=4), growing_orders()), st.data())
def test_what_lanes_are_said_to_have_left_is_what_they_read(order: Order | SegmentedOrder, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, order.lanes - 1))
    lanes = range(first, data.draw(st.integers(first + 1, order.lanes)))
    step = data.draw(st.integers(0, order.steps - 1))
    stream = select_lanes(order, passes_of("stored", order.examples, [], 0), lanes, step, order.steps)
    left = [number for run in order.left(lanes, step) for number in range(*run)]
    assert left == sorted(number for selection in stream for number in selection.each().tolist())


@given(orders())
def test_lane_0_always_has_examples(order: Order) -> None:
    """Integer buffers are taken from lane 0, so it may not be the empty one."""
    assert all(order.minibatch(Position(0, step)).parts[0].examples for step in range(order.steps))


@given(orders(), st.integers(0, 600), st.integers(1, 60))
def test_evaluation_uses_distinct_examples_of_the_pass(order: Order, wanted: int, slice_size: int) -> None:
    slices = evaluation_slices(order.ranges, wanted, slice_size)
    numbers = [number for start, stop in slices for number in range(start, stop)]
    used = {number for lane in order.ranges for number in range(lane.start, lane.stop)}
    assert len(numbers) == len(set(numbers)) == min(wanted, order.used)
    assert set(numbers) <= used
    assert all(0 < stop - start <= slice_size for start, stop in slices)
