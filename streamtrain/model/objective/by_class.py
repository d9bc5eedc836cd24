"""A classifier's errors by class: how often each class was taken for each, out of the output's largest entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.values import Moments

Pair = tuple[int, int]
MOST_PAIRS = 10_000
"""Rows of the table of pairs: those that came most often."""
MOST_SHOWN = 30
"""Classes in a figure: those with the most errors."""


class ClassCounts:
    """A metric of the whole set: examples by class and by the class that they were taken for, as an array of rows
    (class, taken for, examples). Memory: a row for each pair that came."""

    def __init__(self) -> None:
        self._counts: Counter[Pair] = Counter()

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Takes some examples: output of shape (examples, classes), target of shape (examples,)."""
        pairs = torch.stack([target.long(), output.argmax(1)], 1)
        found, counts = torch.unique(pairs, dim=0, return_counts=True)
        for (true, taken), count in zip(found.tolist(), counts.tolist(), strict=True):
            self._counts[true, taken] += count

    def merge(self, other: ClassCounts) -> None:
        """Takes another's counts."""
        self._counts.update(other._counts)

    def compute(self) -> NDArray[np.int64]:
        """Sorted by class, shape (pairs, 3)."""
        return np.array([(*pair, count) for pair, count in sorted(self._counts.items())], np.int64).reshape(-1, 3)


@dataclass(frozen=True)
class ByClass:
    """Errors of a set of examples by class.

    Attributes:
        pairs: rows (class, taken for, examples), sorted; only pairs that came.
        names: of classes 0, 1, …; none where they are not known.
    """

    pairs: NDArray[np.int64]
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> list[int]:
        """All that came, as a class or as what was taken for one."""
        return sorted({int(each) for each in self.pairs[:, :2].reshape(-1)})

    def name(self, number: int) -> str:
        """Of a class; its number where it has none."""
        return self.names[number] if 0 <= number < len(self.names) else str(number)

    def matrix(self, classes: Sequence[int]) -> NDArray[np.int64]:
        """Examples of each of these classes (rows) that were taken for each of them (columns)."""
        place = {number: index for index, number in enumerate(classes)}
        found = np.zeros((len(classes), len(classes)), np.int64)
        for true, taken, count in self.pairs.tolist():
            if true in place and taken in place:
                found[place[true], place[taken]] = count
        return found

    @property
    def errors(self) -> dict[int, Moments]:
        """The error of each class that has examples."""
        of_class: dict[int, list[int]] = {}
        for true, taken, count in self.pairs.tolist():
            wrong, examples = of_class.get(true, [0, 0])
            of_class[true] = [wrong + count * (true != taken), examples + count]
        return {
            number: Moments(examples, wrong / examples, wrong * (1 - wrong / examples))
            for number, (wrong, examples) in of_class.items()
        }

    @property
    def most_frequent(self) -> tuple[int, float]:
        """The class of most examples, and what one errs who always says it."""
        counts = {number: error.count for number, error in self.errors.items()}
        number = max(counts, key=lambda each: (counts[each], -each))
        return number, 1 - counts[number] / sum(counts.values())

    @property
    def shown(self) -> list[int]:
        """At most `MOST_SHOWN` classes, in their order: all, or those with the most errors."""
        errors = self.errors
        worst = sorted(errors, key=lambda number: (-round(errors[number].mean * errors[number].count), number))
        return self.classes if len(self.classes) <= MOST_SHOWN else sorted(worst[:MOST_SHOWN])

    def table(self) -> Iterator[list[str]]:
        """Head and a row for each class, the worst first: its error, and what it was most often taken for instead."""
        yield ["class", "name", "examples", "error", "error_standard_error", "most_often_taken_for", "so_often"]
        instead: dict[int, tuple[int, int]] = {}
        for true, taken, count in self.pairs.tolist():
            if true != taken and count > instead.get(true, (0, 0))[1]:
                instead[true] = taken, count
        errors = self.errors
        for number in sorted(errors, key=lambda number: (-errors[number].mean, number)):
            error = errors[number]
            other, often = instead.get(number, (None, 0))
            said = "" if other is None else self.name(other)
            figures = [f"{error.mean:.6g}", f"{error.standard_error:.3g}"]
            yield [str(number), self.name(number), str(error.count), *figures, said, str(often)]

    def pairs_table(self) -> Iterator[list[str]]:
        """Head and a row for each pair of classes, the most frequent first."""
        yield ["class", "taken_for", "class_name", "taken_for_name", "examples"]
        for true, taken, count in sorted(self.pairs.tolist(), key=lambda row: (-row[2], row[:2]))[:MOST_PAIRS]:
            yield [str(true), str(taken), self.name(true), self.name(taken), str(count)]
