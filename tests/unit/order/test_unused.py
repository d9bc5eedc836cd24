"""What passes offered and no update took, against sets of numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.order import Unused, without
from streamtrain.order.unused import common, merged
from streamtrain.values import Lane, Selection

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


def numbers(runs: list[tuple[int, int]]) -> set[int]:
    return {number for start, stop in runs for number in range(start, stop)}


@given(RUNS, RUNS)
def test_runs_are_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    assert numbers(merged(one)) == numbers(one)
    assert numbers(common(merged(one), merged(other))) == numbers(one) & numbers(other)


@given(RUNS)
def test_what_is_left_of_lanes_is_in_order_and_whole(runs: list[tuple[int, int]]) -> None:
    lanes = (Lane(0, 3, 20), Lane(1, 25, 50))
    left = without(lanes, runs)
    found = [number for each in left for number in range(each.start, each.stop)]
    assert found == [n for n in (*range(3, 20), *range(25, 50)) if n not in numbers(runs)]
    assert all(lanes[each.index].start <= each.start < each.stop <= lanes[each.index].stop for each in left)


@given(st.lists(st.lists(st.lists(st.integers(0, 40), max_size=9), max_size=3), min_size=1, max_size=4))
def test_what_every_pass_left_out_is_unused(passes: list[list[list[int]]]) -> None:
    unused = Unused()
    for index, of_pass in enumerate(passes):
        for each in of_pass:
            unused.add(Selection(index, numbers=np.array(each, np.int64)))
        if index == 0:
            assert numbers(unused.runs) == {n for each in of_pass for n in each}, "also while the first pass goes on"
        unused.end_pass()
    in_all = set.intersection(*({n for each in of_pass for n in each} for of_pass in passes))
    assert numbers(unused.runs) == in_all
    assert Unused.from_json(unused.to_json()) == unused
