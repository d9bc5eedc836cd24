"""Sequences laid into rows: promise 3 as arithmetic, every entry once, for any lengths, rows, lanes and pieces."""

import itertools
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as some

import streamtrain as st
from streamtrain.model.objective import Entries, cut, pieces_of
from streamtrain.order import Order, passes_of, select_minibatch
from streamtrain.stream.examples.collating import Example, collator_of
from streamtrain.stream.examples.sequence_rows import places_in_rows
from streamtrain.values import Arrays, Position

LENGTHS = some.lists(some.integers(0, 9), min_size=1, max_size=40)
ROOM = some.integers(9, 30)


def entry(number: int, place: int) -> int:
    """One that no other has."""
    return 100 * number + place + 1


def example(number: int, length: int) -> dict[str, Any]:
    x = np.array([entry(number, place) for place in range(length)], np.int64)
    return {"x": x, "y": np.full((length, 2), number), "n": number}


def laid(lengths: list[int], numbers: list[int], room: int) -> Arrays:
    """The examples of these numbers, as a batch."""
    collator = collator_of(st.Pack(("x", "y"), room, value=-7))
    assert collator is not None
    examples = [Example(f"example {number}", example(number, lengths[number])) for number in numbers]
    return collator.batch([collator.prepare(each) for each in examples])


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(each) for name, each in arrays.items()}


def read_back(arrays: dict[str, Any]) -> dict[int, list[int]]:
    """Each example's entries, looked up place by place, without a look at the lengths; by the example's number."""
    found: dict[int, dict[int, int]] = {int(number): {} for number in arrays["n"]}
    for row, place in itertools.product(*map(range, arrays["x"].shape)):
        whose = int(arrays["x_example"][row, place])
        if whose < 0:
            continue
        number, at = int(arrays["n"][whose]), int(arrays["x_position"][row, place])
        assert at not in found[number] and int(arrays["x_row"][whose]) == row
        assert arrays["y"][row, place].tolist() == [number, number]
        found[number][at] = int(arrays["x"][row, place])
    assert all(list(each) == list(range(len(each))) for each in found.values()), "in its order"
    assert arrays["x_length"].tolist() == [len(found[int(number)]) for number in arrays["n"]]
    return {number: list(each.values()) for number, each in found.items()}


@given(LENGTHS, ROOM)
def test_each_sequence_begins_behind_the_one_before_or_in_a_new_row(lengths: list[int], room: int) -> None:
    """The naive twin: rows filled up one by one."""
    expected: list[tuple[int, int]] = []
    rows: list[list[int]] = [[]]
    for length in lengths:
        if sum(rows[-1]) + length > room:
            rows.append([])
        expected.append((len(rows) - 1, sum(rows[-1])))
        rows[-1].append(length)
    found = places_in_rows(lengths, room)
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected
    assert len(rows) <= len(lengths), "a row has an example, so no axis is longer than the examples'"


@given(LENGTHS, ROOM, some.integers(1, 5), some.integers(1, 4), some.none() | some.integers(1, 7))
def test_promise_3_every_entry_of_every_example_comes_once_in_a_pass(
    lengths: list[int], room: int, lanes: int, of_a_lane: int, most: int | None
) -> None:
    """For any lanes and pieces; a piece has so many examples at most, or one row."""
    order = Order(len(lengths), lanes, lanes * of_a_lane)
    passes = passes_of("stored", order.examples, [], 0)
    found: list[tuple[int, list[int]]] = []
    for step, lane in itertools.product(range(order.steps), range(lanes)):
        numbers = select_minibatch(order, passes, Position(0, step), lane).each().tolist()
        if not numbers:
            continue
        whole = laid(lengths, numbers, room)
        assert set(whole["x"].reshape(-1)[whole["x_example"].reshape(-1) < 0]) <= {-7}
        for piece in pieces_of(
            {n: torch.from_numpy(each) for n, each in whole.items()}, st.Pack(("x", "y"), room), most
        ):
            assert most is None or len(piece["n"]) <= most or len(piece["x"]) == 1
            found += read_back(piece).items()
    assert [number for number, _ in found] == sorted(range(len(lengths)), key=lambda n: order_of(order, n))
    assert all(each == [entry(number, place) for place in range(lengths[number])] for number, each in found)


def order_of(order: Order, number: int) -> tuple[int, int]:
    """When an example of a pass in stored order comes: by its step, then by its place."""
    (lane,) = (lane for lane in order.ranges if lane.start <= number < lane.stop)
    return (number - lane.start) // (order.batch_size // order.lanes), number


@given(LENGTHS, ROOM, some.data())
def test_any_examples_can_be_cut_out(lengths: list[int], room: int, data: some.DataObject) -> None:
    """Of the others that share their rows nothing is there any more, of arrays and of tensors."""
    start = data.draw(some.integers(0, len(lengths) - 1))
    stop = data.draw(some.integers(start + 1, len(lengths)))
    whole = laid(lengths, list(range(len(lengths))), room)
    pack = st.Pack(("x", "y"), room)
    for batch in (whole, tensors(whole)):
        found = read_back(cut(batch, pack, start, stop))
        assert found == {n: [entry(n, place) for place in range(lengths[n])] for n in range(start, stop)}


@given(LENGTHS, ROOM)
def test_what_is_of_entries_is_added_up_for_its_example(lengths: list[int], room: int) -> None:
    batch = tensors(laid(lengths, list(range(len(lengths))), room))
    entries = Entries(st.Pack(("x", "y"), room), batch)
    flat = entries.of((batch["x"], {"y": batch["y"]}, batch["n"]))
    assert flat[0].tolist() == [entry(n, place) for n, length in enumerate(lengths) for place in range(length)]
    assert flat[1]["y"].shape == (sum(lengths), 2) and flat[2] is batch["n"]
    found = entries.of_examples("loss", flat[0], of_rows=True)
    assert isinstance(found, st.Weighted) and found.weights.tolist() == lengths
    assert found.sums.tolist() == [sum(entry(n, place) for place in range(length)) for n, length in enumerate(lengths)]
    assert [each.tolist() for each in entries.split(batch["x"])] == [
        [entry(n, place) for place in range(length)] for n, length in enumerate(lengths)
    ]
