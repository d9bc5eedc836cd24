"""Examples as often as their weights say: promises 2 and 3 as arithmetic, over many sizes and weights."""

import itertools
import math
import pickle
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.order import Order, WeightedPasses, Weights, select_minibatch
from tests.support.shared_out import read_by_workers

Draw = tuple[int, int]
"""A stored number, and which time of its example it is."""


@st.composite
def all_weights(draw: st.DrawFn) -> list[float]:
    """Of whole numbers, of any, and with zeros."""
    kinds = st.integers(0, 5) | st.floats(0, 10, allow_subnormal=False).map(lambda x: round(x, 3))
    return draw(st.lists(kinds, min_size=1, max_size=80).filter(any))


@st.composite
def orders(draw: st.DrawFn, examples: int) -> Order:
    lanes = draw(st.integers(1, 7))
    later = tuple((40 * each, lanes * draw(st.integers(1, 9))) for each in range(1, draw(st.integers(1, 3))))
    return Order(examples, lanes, lanes * draw(st.integers(1, 9)), examples, later)


def passes_over(weights: list[float], order: Order, seed: int = 3) -> tuple[Weights, WeightedPasses]:
    drawn = Weights(np.array(weights, np.float64), seed)
    return drawn, WeightedPasses(drawn, np.array([lane.start for lane in order.ranges]))


def draws(order: Order, passes: WeightedPasses, step: int) -> list[Draw]:
    chosen = select_minibatch(order, passes, order.position(step))
    assert chosen.numbers is not None and chosen.passes is not None
    return list(zip(chosen.numbers.tolist(), chosen.passes.tolist(), strict=True))


@given(all_weights(), st.data())
def test_each_comes_as_often_as_its_weight_says_rounded_down_or_up(weights: list[float], data: st.DataObject) -> None:
    order = data.draw(orders(len(weights)))
    _, passes = passes_over(weights, order)
    total = math.fsum(weights)
    found = []
    for pass_index in range(3):
        steps = range(order.steps_before(pass_index), order.steps_before(pass_index + 1))
        of_pass = [each for step in steps for each in draws(order, passes, step)]
        assert len(of_pass) == len(weights), "a pass has as many as there are"
        came = Counter(number for number, _ in of_pass)
        for number, weight in enumerate(weights):
            expected = weight * len(weights) / total
            assert math.floor(expected - 1e-9) <= came[number] <= math.ceil(expected + 1e-9)
        found += of_pass
    assert len(set(found)) == len(found), "each time that an example comes has a number of its own"


@given(all_weights(), st.data())
def test_over_passes_it_evens_out(weights: list[float], data: st.DataObject) -> None:
    """Within one, where shifts were perfectly even; of multiples of the golden ratio a little more."""
    seed = data.draw(st.integers(0, 100))
    drawn = Weights(np.array(weights, np.float64), seed)
    places = np.arange(len(weights))
    counts = Counter(number for p in range(100) for number in drawn.draw(p, places)[0].tolist())
    expected = np.array(weights) * len(weights) / math.fsum(weights) * 100
    assert all(abs(counts[number] - each) < 3 for number, each in enumerate(expected))


@settings(max_examples=40)
@given(all_weights(), st.data(), st.integers(1, 7), st.integers(1, 7))
def test_promise_2_another_number_of_workers_goes_on_with_the_rest_from_anywhere(
    weights: list[float], data: st.DataObject, before: int, after: int
) -> None:
    order = data.draw(orders(len(weights)))
    total = order.steps_before(3)
    stop = data.draw(st.integers(0, total))

    passes = passes_over(weights, order)[1]
    read = [read_by_workers(order, passes, before, 0, stop), read_by_workers(order, passes, after, stop, total)]
    assert [*read[0], *read[1]] == read_by_workers(order, passes, 1, 0, total)


@given(all_weights(), st.data())
def test_what_is_said_to_be_used_is_what_updates_took(weights: list[float], data: st.DataObject) -> None:
    order = data.draw(orders(len(weights)))
    drawn, passes = passes_over(weights, order)
    step = data.draw(st.integers(0, order.steps_before(3)))
    took = {number for each in range(step) for number, _ in draws(order, passes, each)}
    used = drawn.used(order.examples_before(order.position(step)))
    assert sorted(n for lane in used for n in drawn.select(lane.start, lane.stop).each().tolist()) == sorted(took)
    assert len(used) <= 1, "a measurement goes through it in large batches"


@given(all_weights(), st.data())
def test_numbers_by_arrival_are_the_same_wherever_they_are_asked_for(weights: list[float], data: st.DataObject) -> None:
    order = data.draw(orders(len(weights)))
    drawn, passes = passes_over(weights, order)
    came = dict.fromkeys(n for step in range(order.steps_before(3)) for n, _ in draws(order, passes, step))
    stop = data.draw(st.integers(0, len(came)))
    start = data.draw(st.integers(0, stop))
    piece = drawn.select(start, stop).each().tolist()
    assert set(pickle.loads(pickle.dumps(drawn)).select(0, len(came)).each().tolist()) == came.keys()
    other = Weights(np.array(weights, np.float64), 3)
    assert other.select(start, stop).each().tolist() == piece == sorted(piece)
    assert [number for run in drawn.by_part([(n, n + 1) for n in piece]) for number in range(*run)] == [
        *range(start, stop)
    ]


def test_equal_weights_are_each_example_once_in_a_random_order() -> None:
    drawn = Weights(np.full(1000, 0.1), 1)
    of_passes = [drawn.draw(pass_index, np.arange(1000))[0].tolist() for pass_index in range(3)]
    assert all(sorted(each) == list(range(1000)) for each in of_passes)
    assert all(one != other for one, other in itertools.combinations([*of_passes, list(range(1000))], 2))


def test_a_heavy_example_comes_all_over_a_pass() -> None:
    order = Order(1000, 2, 100)
    _, passes = passes_over([1.0] * 999 + [111.0], order)
    came = [sum(number == 999 for number, _ in draws(order, passes, step)) for step in range(order.steps)]
    assert sum(came) == 100 and max(came) < 25 and min(came) > 1
