"""Orders of later passes: permutations, by arithmetic, the same from wherever they are asked."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order import Order, select_minibatch
from streamtrain.order.passes import ExamplePasses, Passes, ShardPasses, StoredPasses, passes_of
from streamtrain.values import Position, Selection


def numbers(selection: Selection) -> list[int]:
    return selection.each().tolist()


def every_kind(sizes: list[int], seed: int) -> list[Passes]:
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [passes_of(kind, starts[-1], starts, seed) for kind in ("stored", "shards", "examples")]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 2**63), st.integers(0, 5), st.data())
def test_promise_3_a_pass_takes_each_example_once_however_it_is_cut(
    sizes: list[int], seed: int, pass_index: int, data: st.DataObject
) -> None:
    examples = sum(sizes)
    cuts = sorted({0, examples, *data.draw(st.lists(st.integers(0, examples), max_size=6))})
    for passes in every_kind(sizes, seed):
        whole = numbers(passes.stored(pass_index, 0, examples))
        assert sorted(whole) == list(range(examples))
        pieces = [numbers(passes.stored(pass_index, a, b)) for a, b in itertools.pairwise(cuts)]
        assert [number for piece in pieces for number in piece] == whole


@given(st.integers(0, 2**63), st.integers(0, 5), st.integers(0, 14), st.integers(1, 15))
def test_a_selection_carries_its_pass(seed: int, pass_index: int, start: int, examples: int) -> None:
    for passes in every_kind([5, 7, 3], seed):
        assert passes.stored(pass_index, start, min(15, start + examples)).pass_index == pass_index


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2), st.sampled_from(["stored", "shards", "examples"]))
def test_a_minibatch_is_its_lanes_one_after_the_other(examples: int, lanes: int, pass_index: int, kind: str) -> None:
    order = Order(examples, lanes, 2 * lanes)
    passes = passes_of(kind, examples, [0, examples // 2, examples], 3)  # type: ignore[arg-type]
    for step in range(order.steps):
        position = Position(pass_index, step)
        whole = select_minibatch(order, passes, position)
        parts = [select_minibatch(order, passes, position, lane) for lane in range(lanes)]
        assert {part.pass_index for part in (whole, *parts)} == {pass_index}
        assert whole.each().tolist() == [number for part in parts for number in part.each().tolist()]


def test_the_first_pass_is_the_stored_order() -> None:
    for passes in every_kind([5, 7, 3], seed=4):
        assert numbers(passes.stored(0, 2, 11)) == list(range(2, 11))


def test_shards_keep_their_inner_order() -> None:
    passes = ShardPasses([0, 5, 12, 15], seed=1)
    orders = {passes.stored(index, 0, 15).runs for index in range(1, 40)}
    assert {frozenset(order) for order in orders} == {frozenset({(0, 5), (5, 12), (12, 15)})}
    assert len(orders) == 6, "all six orders of three shards"


def test_passes_and_seeds_differ() -> None:
    orders = [numbers(ExamplePasses(1000, seed).stored(index, 0, 1000)) for seed in (0, 1) for index in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4
    assert isinstance(passes_of("stored", 5, [0, 5], 0), StoredPasses)


@pytest.mark.parametrize("examples", [5, 16, 100])
def test_every_example_may_come_at_every_place(examples: int) -> None:
    """Each cell of place × example is hit about equally often over the passes: chi-square within 5 deviations."""
    passes, turns = ExamplePasses(examples, seed=9), 4000
    counts = np.zeros((examples, examples))
    for index in range(1, turns + 1):
        counts[np.arange(examples), numbers(passes.stored(index, 0, examples))] += 1
    expected = turns / examples
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = (examples - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_part() -> None:
    order = np.array(numbers(ExamplePasses(10_000, seed=2).stored(3, 0, 10_000)))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_a_billion_examples_cost_no_memory_and_are_found_at_once() -> None:
    found = ExamplePasses(10**9, seed=1).stored(7, 999_999_000, 10**9).each()
    assert len(np.unique(found)) == 1000 and found.max() < 10**9
