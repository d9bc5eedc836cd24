"""Minibatches of neighbours in length: promises 2, 3 and 7 as arithmetic, over many sizes, lanes and lengths."""

import itertools
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.order import (
    LengthPasses,
    Order,
    Passes,
    Reshuffle,
    passes_of,
    select_minibatch,
)
from streamtrain.order.passes.by_length import WINDOW
from streamtrain.values import Position
from tests.support.shared_out import read_by_workers

RESHUFFLES = st.sampled_from(["stored", "shards", "examples"])


@st.composite
def orders(draw: st.DrawFn, most_sizes: int = 1) -> Order:
    lanes = draw(st.integers(1, 6))
    examples = draw(st.integers(1, 400) | st.integers(2000, 2200))
    later = tuple((70 * each, lanes * draw(st.integers(1, 7))) for each in range(1, draw(st.integers(1, most_sizes))))
    return Order(examples, lanes, lanes * draw(st.integers(1, 4)), draw(st.integers(1, examples)), later)


def passes_over(order: Order, reshuffle: Reshuffle = "stored", seed: int = 3) -> tuple[LengthPasses, Passes]:
    """The passes, and those that they are made from."""
    lengths = np.random.default_rng(order.examples).integers(0, 50, order.examples)
    whole = order.used == order.examples
    base = passes_of(reshuffle if whole else "stored", order.examples, [0, order.examples // 2, order.examples], seed)
    return LengthPasses(base, lengths, order.ranges, order.largest, seed), base


def minibatches(order: Order, passes: Passes, pass_index: int) -> list[list[int]]:
    steps = range(order.steps_of(pass_index))
    return [select_minibatch(order, passes, Position(pass_index, step)).each().tolist() for step in steps]


@given(orders(4), RESHUFFLES, st.integers(0, 2))
def test_promise_3_a_pass_has_the_examples_of_the_order_below_each_once(
    order: Order, reshuffle: Reshuffle, pass_index: int
) -> None:
    passes, base = passes_over(order, reshuffle)
    found, below = (list(itertools.chain(*minibatches(order, each, pass_index))) for each in (passes, base))
    assert len(found) == len(set(found)) == order.used and set(found) == set(below)


@given(orders(), RESHUFFLES, st.integers(0, 2))
def test_each_minibatch_is_of_neighbours_in_its_window(order: Order, reshuffle: Reshuffle, pass_index: int) -> None:
    """The naive twin: no example of the window, of whichever minibatch, is strictly between two of one."""
    passes, base = passes_over(order, reshuffle)
    lengths = np.random.default_rng(order.examples).integers(0, 50, order.examples)
    made, plain = (minibatches(order, each, pass_index) for each in (passes, base))
    for first in range(0, len(made), WINDOW):
        window = made[first : first + WINDOW]
        assert set(itertools.chain(*window)) == set(itertools.chain(*plain[first : first + WINDOW]))
        spans = sorted((int(lengths[each].min()), int(lengths[each].max())) for each in window)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@settings(max_examples=40)
@given(orders(4), RESHUFFLES, st.data(), st.integers(1, 7), st.integers(1, 7))
def test_promise_2_another_number_of_workers_goes_on_with_the_rest_from_anywhere(
    order: Order, reshuffle: Reshuffle, data: st.DataObject, before: int, after: int
) -> None:
    total = order.steps_before(3)
    stop = data.draw(st.integers(0, total))

    passes = passes_over(order, reshuffle)[0]
    read = [read_by_workers(order, passes, before, 0, stop), read_by_workers(order, passes, after, stop, total)]
    assert [*read[0], *read[1]] == read_by_workers(order, passes, 1, 0, total)


@given(orders(4), st.data())
def test_promise_7_what_is_said_to_be_used_is_what_updates_took(order: Order, data: st.DataObject) -> None:
    passes, _ = passes_over(order)
    step = data.draw(st.integers(0, order.steps))
    took = set(itertools.chain(*minibatches(order, passes, 0)[:step]))
    used = passes.used(order.examples_before(order.position(step)) if step < order.steps else order.used)
    said = [number for lane in used for number in range(lane.start, lane.stop)]
    assert len(said) == len(set(said)) and set(said) == took


def test_minibatches_come_in_no_order_of_length_and_neither_do_lanes() -> None:
    order = Order(100_000, 4, 100)
    lengths = np.random.default_rng(0).integers(0, 1000, order.examples)
    passes = LengthPasses(passes_of("stored", order.examples, [], 0), lengths, order.ranges, 100, 5)
    made = [lengths[each] for each in minibatches(order, passes, 0)]
    means = np.array([each.mean() for each in made])
    for first in range(0, len(made), WINDOW):  # of a hundred the correlation with their place has a spread of 0.1
        assert abs(np.corrcoef(np.arange(WINDOW), means[first : first + WINDOW])[0, 1]) < 0.45
    assert max(each.max() - each.min() for each in made) < 30
    of_lanes = np.array([[part.mean() for part in np.split(each, 4)] for each in made]).mean(0)
    assert np.ptp(of_lanes) < 1
    assert minibatches(order, pickle.loads(pickle.dumps(passes)), 1) == minibatches(order, passes, 1)
    assert minibatches(order, passes, 1) != minibatches(order, passes, 0)


def test_the_short_last_minibatch_is_of_no_one_length() -> None:
    order = Order(1050, 1, 100)
    lengths = np.arange(1050)
    base = passes_of("stored", 1050, [], 0)
    passes = (LengthPasses(base, lengths, order.ranges, 100, seed) for seed in range(60))
    assert len({minibatches(order, each, 0)[-1][0] // 100 for each in passes}) > 8
