"""Batch sizes that change by examples used: arithmetic against the obvious loop, over many sizes and thresholds."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order import Later, Order, SegmentedOrder
from streamtrain.values import Position


@st.composite
def growing(draw: st.DrawFn) -> Order:
    lanes = draw(st.integers(1, 6))
    examples = draw(st.integers(1, 150))
    sizes = st.integers(1, 30).map(lambda each: lanes * each)
    later = draw(st.dictionaries(st.integers(1, 600), sizes, max_size=5))
    return Order(examples, lanes, draw(sizes), draw(st.integers(1, examples)), tuple(sorted(later.items())))


@dataclass(frozen=True)
class Walked:
    position: Position
    before: int
    size: int
    parts: list[tuple[int, int]]


def size_at(batch_size: int, later: Later, used: int) -> int:
    return [batch_size, *(size for threshold, size in later if threshold <= used)][-1]


def walk(order: Order, passes: int) -> list[Walked]:
    """Minibatch after minibatch, example after example."""
    found = []
    used = 0
    for pass_index in range(passes):
        places = [each.start for each in order.ranges]
        step = 0
        while any(place < each.stop for place, each in zip(places, order.ranges, strict=True)):
            size = size_at(order.batch_size, order.later, used)
            ends = [
                min(place + size // order.lanes, each.stop) for place, each in zip(places, order.ranges, strict=True)
            ]
            found.append(Walked(Position(pass_index, step), used, size, list(zip(places, ends, strict=True))))
            used += sum(ends) - sum(places)
            places = ends
            step += 1
    return found


@given(growing(), st.integers(1, 6))
def test_any_step_is_found_at_once_where_walking_comes_to(order: Order, passes: int) -> None:
    walked = walk(order, passes)
    assert order.steps_before(passes) == len(walked)
    for step, each in enumerate(walked):
        assert order.position(step) == each.position
        assert order.global_step(each.position) == step
        assert order.examples_before(each.position) == each.before
        assert order.size(step) == each.size
        minibatch = order.minibatch(each.position)
        assert [(part.start, part.stop) for part in minibatch.parts] == each.parts
        assert order.ends_pass(step) == (
            each.before + minibatch.examples == (each.position.pass_index + 1) * order.used
        )
    for pass_index in range(passes):
        assert order.steps_of(pass_index) == sum(each.position.pass_index == pass_index for each in walked)
    with pytest.raises(IndexError):
        order.minibatch(Position(passes - 1, order.steps_of(passes - 1)))


@given(growing(), st.integers(1, 6))
def test_promise_3_every_pass_uses_each_example_once_and_only_its_last_minibatch_is_short(
    order: Order, passes: int
) -> None:
    for pass_index in range(passes):
        batches = [order.minibatch(Position(pass_index, step)) for step in range(order.steps_of(pass_index))]
        numbers = [n for each in batches for part in each.parts for n in range(part.start, part.stop)]
        assert len(numbers) == len(set(numbers)) == order.used
        first = order.steps_before(pass_index)
        assert all(each.examples == order.size(first + at) for at, each in enumerate(batches[:-1]))
        assert 0 < batches[-1].examples <= order.size(first + len(batches) - 1)


@given(growing(), st.integers(1, 6))
def test_the_smallest_part_and_where_so_many_examples_are_reached(order: Order, passes: int) -> None:
    walked = walk(order, passes)
    sizes = [stop - start for each in walked for start, stop in each.parts if stop > start]
    assert order.smallest(passes).smallest_part == min(sizes)
    for used in range(passes * order.used + 1):
        reached = [step for step, each in enumerate(walked) if each.before >= used]
        assert order.step_reaching(used) == (reached[0] if reached else len(walked))


@given(growing(), st.integers(1, 6), st.data())
def test_a_size_that_is_decided_on_the_way_changes_nothing_before_it(
    order: Order, passes: int, data: st.DataObject
) -> None:
    """As a batch that follows the noise does it: the size changes at a step that the run is at."""
    step = data.draw(st.integers(0, order.steps_before(passes) - 1))
    used = order.examples_before(order.position(step))
    decided = (*(each for each in order.later if each[0] < used), (used, 8 * order.lanes))
    changed = Order(order.examples, order.lanes, order.batch_size, order.used, decided)
    assert [changed.position(each) for each in range(step + 1)] == [order.position(each) for each in range(step + 1)]
    assert [changed.size(each) for each in range(step)] == [order.size(each) for each in range(step)]
    assert {changed.size(each) for each in range(step, step + 20)} == {8 * order.lanes}
    assert changed.step_reaching(used) == step


@given(growing(), st.integers(1, 5), st.integers(1, 6))
def test_progress_in_steps_of_one_size_stands_at_the_same_examples_whatever_the_batch_does(
    order: Order, each: int, passes: int
) -> None:
    size = each * order.lanes
    constant = Order(order.examples, order.lanes, size, order.used)
    for step in range(order.steps_before(passes)):
        position = order.position(step)
        whole = constant.position(order.steps_of_size(step, size))
        assert whole.pass_index == position.pass_index
        assert constant.examples_before(whole) <= order.examples_before(position)
        assert order.examples_before(position) < constant.examples_before(whole) + size
    ends = [order.steps_of_size(order.steps_before(done), size) for done in range(passes + 1)]
    assert ends == [constant.steps_before(done) for done in range(passes + 1)]
    assert [constant.steps_of_size(step, size) for step in range(50)] == list(range(50))


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
    st.integers(1, 4),
    st.dictionaries(st.integers(1, 300), st.integers(1, 9), max_size=4),
)
def test_sizes_go_on_over_segments(segments: list[int], lanes: int, sizes: dict[int, int]) -> None:
    later = tuple((used, lanes * each) for used, each in sorted(sizes.items()))
    order = SegmentedOrder(segments, lanes, 2 * lanes, later)
    used = 0
    numbers: list[int] = []
    for step in range(order.steps):
        position = order.position(step)
        minibatch = order.minibatch(position)
        assert order.examples_before(position) == used
        assert order.size(step) == size_at(2 * lanes, later, used)
        assert order.step_reaching(used) == step
        used += minibatch.examples
        numbers += [n for part in minibatch.parts for n in range(part.start, part.stop)]
    assert used == order.used == order.examples_before(order.position(order.steps))
    assert sorted(numbers) == list(range(sum(segments)))
    plain = [order.steps_of_size(step, 2 * lanes) for step in range(order.steps + 1)]
    assert plain == sorted(plain) and plain[-1] == SegmentedOrder(segments, lanes, 2 * lanes).steps


def test_a_step_far_away_costs_no_walk() -> None:
    order = Order(10**12, 8, 64, later=((10**15, 256), (10**18, 4096)))
    for step in (10**17, 10**15, 3 * 10**13):
        position = order.position(step)
        assert order.global_step(position) == step
    far = order.step_reaching(10**18)
    assert order.size(far - 1) == 256 and order.size(far) == order.largest == 4096


def test_by_hand() -> None:
    """20 examples in 2 lanes: 4 a minibatch, 8 once 10 examples are used, 12 once 30 are."""
    order = Order(20, 2, 4, later=((10, 8), (30, 12)))
    taken = [[(part.start, part.stop) for part in order.minibatch(order.position(step)).parts] for step in range(8)]
    assert taken == [
        [(0, 2), (10, 12)],
        [(2, 4), (12, 14)],
        [(4, 6), (14, 16)],  # 8 are used before it, so it is the last of 4
        [(6, 10), (16, 20)],
        [(0, 4), (10, 14)],
        [(4, 8), (14, 18)],  # 28 are used
        [(8, 10), (18, 20)],  # short: what the pass has left
        [(0, 6), (10, 16)],
    ]
    assert list(itertools.accumulate(order.steps_of(each) for each in range(4))) == [4, 7, 9, 11]
