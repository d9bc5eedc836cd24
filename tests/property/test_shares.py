"""Parts with shares, as `st.Balanced` makes them: promises 2 and 3 as arithmetic, over many sizes and shares."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.order import (
    Order,
    PartPasses,
    Parts,
    Reshuffle,
    select_minibatch,
)
from streamtrain.order.passes import share_pattern
from streamtrain.values import Lane, Position
from tests.support.shared_out import read_by_workers

Draw = tuple[int, int]
"""A stored number, and the pass of its part in which it came."""
RESHUFFLES = st.sampled_from(["stored", "examples"])


@st.composite
def all_parts(draw: st.DrawFn) -> Parts:
    """Of classes strewn over the stored order, or of data sets one after the other; with any shares."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    weights = draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    if draw(st.booleans()):
        return Parts(tuple(sizes), tuple(weights))
    labels = draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    return Parts(tuple(sizes), tuple(weights), np.argsort(labels, kind="stable"))


@st.composite
def orders(draw: st.DrawFn, parts: Parts, used: int | None = None) -> Order:
    lanes = draw(st.integers(1, 7))
    later = tuple((40 * each, lanes * draw(st.integers(1, 9))) for each in range(1, draw(st.integers(1, 3))))
    return Order(parts.examples, lanes, lanes * draw(st.integers(1, 9)), used or parts.examples, later)


def passes_over(parts: Parts, order: Order, reshuffle: Reshuffle, seed: int = 3) -> PartPasses:
    return PartPasses(parts, order.examples, order.used, order.lanes, reshuffle, seed)


def draws(order: Order, passes: PartPasses, step: int) -> list[Draw]:
    chosen = select_minibatch(order, passes, order.position(step))
    assert chosen.numbers is not None and chosen.passes is not None
    return list(zip(chosen.numbers.tolist(), chosen.passes.tolist(), strict=True))


def naive(parts: Parts, places: int) -> list[Draw]:
    """Place by place, each part going round its stored order."""
    members = np.arange(parts.examples) if parts.members is None else parts.members
    own = [members[s : s + n].tolist() for s, n in zip(parts.starts, parts.sizes, strict=True)]
    pattern = share_pattern(parts.weights).tolist()
    given_so_far: Counter[int] = Counter()
    found = []
    for part in itertools.islice(itertools.cycle(pattern), places):
        turn, at = divmod(given_so_far[part], parts.sizes[part])
        found.append((own[part][at], turn))
        given_so_far[part] += 1
    return found


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_any_first_places_have_each_share_within_one_example(weights: list[int]) -> None:
    pattern = share_pattern(weights).tolist()
    total = sum(weights)
    had: Counter[int] = Counter()
    for places, part in enumerate(pattern + pattern, 1):
        had[part] += 1
        assert all(abs(had[i] - Fraction(weight * places, total)) < 1 for i, weight in enumerate(weights))
    assert [had[i] * total for i in range(len(weights))] == [2 * len(pattern) * weight for weight in weights]


@given(all_parts(), st.data())
def test_minibatches_are_runs_of_the_places_whatever_their_size_and_the_lanes(
    parts: Parts, data: st.DataObject
) -> None:
    order = data.draw(orders(parts))
    passes = passes_over(parts, order, "stored")
    expected = iter(naive(parts, 3 * order.used))
    for step in range(order.steps_before(3)):
        found = draws(order, passes, step)
        assert Counter(found) == Counter(itertools.islice(expected, len(found)))
    assert not list(expected)


@given(all_parts(), RESHUFFLES, st.data())
def test_promise_3_each_pass_of_a_part_takes_each_of_its_examples_once(
    parts: Parts, reshuffle: Reshuffle, data: st.DataObject
) -> None:
    order = data.draw(orders(parts))
    passes = passes_over(parts, order, reshuffle)
    found = [each for step in range(order.steps_before(4)) for each in draws(order, passes, step)]
    assert len(found) == len(set(found)) == 4 * order.used
    members = np.arange(parts.examples) if parts.members is None else parts.members
    of_parts = parts.given(4 * order.used).tolist()
    for start, size, count in zip(parts.starts.tolist(), parts.sizes, of_parts, strict=True):
        own = set(members[start : start + size].tolist())
        turns = Counter(turn for number, turn in found if number in own)
        whole, rest = divmod(count, size)
        assert turns == Counter(dict.fromkeys(range(whole), size)) + Counter({whole: rest})


@settings(max_examples=40)
@given(all_parts(), RESHUFFLES, st.data(), st.integers(1, 7), st.integers(1, 7))
def test_promise_2_another_number_of_workers_goes_on_with_the_rest_from_anywhere(
    parts: Parts, reshuffle: Reshuffle, data: st.DataObject, before: int, after: int
) -> None:
    order = data.draw(orders(parts))
    passes = passes_over(parts, order, reshuffle)
    total = order.steps_before(3)
    stop = data.draw(st.integers(0, total))

    read = [read_by_workers(order, passes, before, 0, stop), read_by_workers(order, passes, after, stop, total)]
    assert [*read[0], *read[1]] == read_by_workers(order, passes, 1, 0, total)


@given(all_parts())
def test_promise_7_online_ends_before_an_example_comes_twice_and_no_earlier(parts: Parts) -> None:
    for used in {max(1, parts.once // 2), max(1, parts.once)}:
        order = Order(max(1, parts.once), 1, 5, used)
        passes = PartPasses(parts, order.examples, used, 1, "stored", 0)
        found = [number for step in range(order.steps) for number, _ in draws(order, passes, step)]
        assert len(found) == len(set(found)) == used or not parts.once
    more = [number for number, _ in naive(parts, parts.once + 1)]
    assert len(set(more)) == parts.once


@given(all_parts(), RESHUFFLES, st.data())
def test_what_is_said_to_be_used_is_what_updates_took(parts: Parts, reshuffle: Reshuffle, data: st.DataObject) -> None:
    order = data.draw(orders(parts))
    passes = passes_over(parts, order, reshuffle)
    step = data.draw(st.integers(0, order.steps_before(3)))
    took = {number for each in range(step) for number, _ in draws(order, passes, each)}
    used = parts.used(order.examples_before(order.position(step)))
    said = [number for lane in used for number in parts.select(lane.start, lane.stop).each().tolist()]
    assert len(said) == len(set(said)) and set(said) == took


@given(all_parts(), st.data())
def test_stored_numbers_are_found_by_part(parts: Parts, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, parts.examples - 1))
    stop = data.draw(st.integers(start + 1, parts.examples))
    found = [n for run in parts.by_part([(start, stop)]) for n in parts.select(*run).each().tolist()]
    assert sorted(found) == list(range(start, stop))


def test_lanes_are_of_no_one_part() -> None:
    """Two parts with equal shares in two lanes: without a turn each lane would be of one part alone."""
    parts = Parts((500, 500), (1, 1))
    order = Order(1000, 2, 100)
    passes = passes_over(parts, order, "stored")
    for step in range(order.steps):
        for lane in range(2):
            first = int((select_minibatch(order, passes, Position(0, step), lane).each() < 500).sum())
            assert 10 < first < 40


@given(all_parts(), st.integers(1, 300), st.data())
def test_an_evaluation_looks_at_parts_at_their_shares(parts: Parts, wanted: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, parts.examples), min_size=2, max_size=6)))
    ranges = [Lane(0, start, stop) for start, stop in zip(cuts[::2], cuts[1::2], strict=False)]
    found = parts.by_share(ranges, wanted)
    there = [number for each in ranges for number in range(each.start, each.stop)]
    own = [[number for each in lanes for number in range(each.start, each.stop)] for lanes, _ in found]
    assert sorted(number for numbers in own for number in numbers) == there
    counts = [count for _, count in found]
    assert sum(counts) <= wanted and all(c <= len(numbers) for c, numbers in zip(counts, own, strict=True))
    weight = sum(parts.weights)
    assert all(abs(c - Fraction(w * sum(counts), weight)) < 1 for c, w in zip(counts, parts.weights, strict=True))
    if sum(counts) < wanted:
        more = parts.given(sum(counts) + 1).tolist()
        assert any(c > len(numbers) for c, numbers in zip(more, own, strict=True)), "no more are there at these shares"
