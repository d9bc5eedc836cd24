"""Promises 2 and 3 as arithmetic, over many sizes."""

from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order import Order, evaluation_slices, lanes_of_worker
from streamtrain.values import Position


@st.composite
def orders(draw: st.DrawFn) -> Order:
    lanes = draw(st.integers(1, 12))
    examples = draw(st.integers(1, 500))
    return Order(
        examples=examples,
        lanes=lanes,
        batch_size=lanes * draw(st.integers(1, 20)),
        used=draw(st.integers(1, examples)),
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
