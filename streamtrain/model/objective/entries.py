"""Batches whose examples share rows (`st.Pack`): what a model gives of entries, as of examples.

Losses, errors and metrics get the entries of all examples one behind the other, without the padding: an example's are
neighbours, in their order. What they give of each entry is added up for its example, always over as many places as a
row has, so the bits do not depend on where in a row it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from streamtrain.errors import JobError, complaint
from streamtrain.job import Pack, Value, Weighted
from streamtrain.model.objective.whole_set import mapped
from streamtrain.values import examples_in


class Entries:
    """Where a batch's entries lie.

    Args:
        batch: with the fields that `Pack` adds.
    """

    def __init__(self, pack: Pack, batch: dict[str, torch.Tensor]) -> None:
        self._there = batch[pack.example_field] >= 0
        self._lengths = batch[pack.length_field]
        self._places = torch.arange(pack.length, device=self._lengths.device)

    def are_in(self, value: Any) -> bool:
        """Whether some tensor in it is of rows: its first axes are the rows and their places."""
        found: list[bool] = []

        def look(tensor: torch.Tensor) -> torch.Tensor:
            found.append(self._is_of_rows(tensor))
            return tensor

        mapped(value.sums if isinstance(value, Weighted) else value, look)
        return any(found)

    def of(self, value: Any) -> Any:
        """The same with the entries of rows one behind the other, shape (entries, …); all else as it is."""
        if isinstance(value, Weighted):
            return Weighted(self.of(value.sums), self.of(value.weights))
        return mapped(value, lambda tensor: tensor[self._there] if self._is_of_rows(tensor) else tensor)

    def split(self, value: torch.Tensor) -> list[torch.Tensor]:
        """Of a tensor of rows each example's entries, shape (its length, …)."""
        return list(torch.split_with_sizes(value[self._there], self._lengths.tolist()))

    def of_examples(self, name: str, value: Any, *, of_rows: bool) -> Value:
        """Of each example, shape (examples,).

        Args:
            name: of what it is.
            of_rows: it is of each entry, shape (entries,), and is added up; a plain number of an entry weighs 1.

        Raises:
            JobError: it is of another shape.
        """
        one = self._sums if of_rows else self._checked
        if isinstance(value, Weighted):
            return Weighted(one(name, value.sums), one(name, value.weights))
        return Weighted(one(name, value), self._lengths) if of_rows else one(name, value)

    def _is_of_rows(self, tensor: torch.Tensor) -> bool:
        return tensor.shape[:2] == self._there.shape

    def _checked(self, name: str, values: Any) -> torch.Tensor:
        """Of each example, as it was given."""
        expected = f"one value an example, shape ({len(self._lengths)},)"
        return _of_shape(name, values, len(self._lengths), expected)

    def _sums(self, name: str, values: Any) -> torch.Tensor:
        """Of each example's entries. By a gather: adding up in place has no fixed order on a GPU."""
        ends = self._lengths.cumsum(0)
        entries = int(ends[-1])
        expected = f"one value an entry, shape ({entries},)"
        given = _of_shape(name, values, entries, expected)
        given = given.float() if given.dtype in (torch.float16, torch.bfloat16) else given
        behind = torch.nn.functional.pad(given, (0, 1))  # a zero, for the places that an example has not
        places = (ends - self._lengths)[:, None] + self._places
        return behind[torch.where(self._places < self._lengths[:, None], places, entries)].sum(1)


def _of_shape(name: str, values: Any, count: int, expected: str) -> torch.Tensor:
    if isinstance(values, torch.Tensor) and values.shape == (count,):
        return values
    found = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
    raise JobError(complaint(name, expected=expected, found=found, do='average over nothing: reduction="none"'))


def cut(batch: Mapping[str, Any], pack: Pack, start: int, stop: int) -> dict[str, Any]:
    """Examples ``[start, stop)`` of a batch of arrays or tensors, in the rows that they lie in.

    Of others that lie in these rows too the entries stay there, as of no example.
    """
    rows = batch[pack.row_field]
    count, first, last = int(rows[-1]) + 1, int(rows[start]), int(rows[stop - 1]) + 1
    # as many rows as examples: each has a row of its own, and both are cut alike
    found = {name: each[first:last] if len(each) == count else each[start:stop] for name, each in batch.items()}
    whose = found[pack.example_field]
    found[pack.example_field] = (whose - start + 1) * ((whose >= start) & (whose < stop)) - 1
    found[pack.row_field] = found[pack.row_field] - first
    return found


def pieces_of(batch: Mapping[str, Any], pack: Pack | None, most: int | None) -> Iterator[dict[str, Any]]:
    """A batch of arrays or tensors in pieces of at most so many examples; of rows whole ones, at least one of them."""
    examples = examples_in(batch)
    if most is None or examples <= most:
        yield dict(batch)
    elif pack is None:
        for start in range(0, examples, most):
            yield {name: tensor[start : start + most] for name, tensor in batch.items()}
    else:
        for start, stop in row_borders(batch[pack.row_field].tolist(), most):
            yield cut(batch, pack, start, stop)


def row_borders(rows: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of examples: whole rows each, with at most so many examples, or one row.

    Args:
        rows: the row of each example, none before the one of the example before.
    """
    ends = [at for at in range(1, len(rows)) if rows[at] != rows[at - 1]]
    start = 0
    for before, end in itertools.pairwise([*ends, len(rows)]):
        if end - start > most:
            yield start, before
            start = before
    yield start, len(rows)
