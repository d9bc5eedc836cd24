"""Minibatches for plain PyTorch loops, in the same order as in a run.

They are a function of (data set, seed, batch size, lanes), and of the position, which can be saved and gone to.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Collate
from streamtrain.order import LengthPasses, Order, PartPasses, Passes, Reshuffle, passes_of, select_minibatch
from streamtrain.stream.ahead.copies import Copies
from streamtrain.stream.ahead.streamed_batches import StreamedBatches, StreamersWork
from streamtrain.stream.ahead.thread import made_ahead
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.values import Arrays, Position, Selection

if TYPE_CHECKING:
    from streamtrain.stream.loops.opened import Examples

    Batch = dict[str, Any]
    BatchDataset = IterableDataset[Batch]
else:
    BatchDataset = IterableDataset

STATE_VERSION = 1


@dataclass(frozen=True)
class Choice:
    """Which examples, in which order; see `Examples.batches`."""

    order: Order
    lane: int | None
    reshuffle: Reshuffle
    seed: int
    drop_last: bool
    collate: Collate | None
    by_length: str | None = None

    @cached_property  # asked for at every minibatch
    def steps(self) -> int:
        """Minibatches of a pass."""
        return self.order.used // self.order.batch_size if self.drop_last else self.order.steps


class Batches(BatchDataset):
    """Minibatches, each a dict of tensors with the example along the first axis, or the row that `Pack` lays some into.

    Every lane gives `len` of them a pass. A part without examples, as of a short last minibatch or where all were
    skipped, is a batch of 0 examples, of the form of the others.

    The position is the one truth: ``iter`` goes on from it to the end of the pass, whoever iterated before, and the
    next ``iter`` makes the next pass. `state_dict` holds the position after the minibatch last given.
    It can be pickled, and goes on from its position in another process. In a `DataLoader` use ``batch_size=None`` and
    no workers: threads read ahead (``ahead``, ``decode_threads``), and the position stays in this process.
    """

    def __init__(self, examples: Examples, choice: Choice, device: torch.device | None, ahead: int) -> None:
        super().__init__()
        self._examples = examples
        self._choice = choice
        own = examples.own_reader
        self._own_reader = own if choice.collate is None else own.collating(choice.collate)
        self._device = device
        self._ahead = ahead
        self._passes = _passes(examples, choice)
        augment = examples.preparing.augment
        self._augmentation = None if augment is None else Augmentation(augment, choice.seed)
        self._streamed = StreamedBatches(examples.preparing.streamers) if examples.preparing.streamers else None
        self._position = Position(0, 0)
        self._sought = 0
        self._followed: tuple[int, Position] | None = None

    @property
    def position(self) -> Position:
        """Passes done, and minibatches of the present one."""
        return self._position

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return self._choice.steps

    def seek(self, position: Position) -> None:
        """Goes to a position, at once, also in the middle of an iteration.

        Raises:
            IndexError: there is none such.
        """
        if position.pass_index < 0 or not 0 <= position.step <= len(self):
            raise IndexError(f"{position} of passes of {len(self)} minibatches")
        self._position = self._carried(position.pass_index, position.step)
        self._sought += 1

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in; JSON's types."""
        return {**self._identity(), "pass_index": self._position.pass_index, "step": self._position.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of a `state_dict`, whatever ``lane`` it was saved with.

        Raises:
            ConfigError: it is of another data set, order or batch size.
        """
        for name, ours in self._identity().items():
            if state.get(name) != ours:
                do = "load it into batches like those it was saved from"
                raise ConfigError(complaint(f"state, {name}", expected=repr(ours), found=repr(state.get(name)), do=do))
        self.seek(Position(int(state["pass_index"]), int(state["step"])))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            sought = self._sought
            pass_index = self._position.pass_index
            for step, batch in self._made(self._position):
                if sought != self._sought:
                    break
                self._position = self._carried(pass_index, step + 1)
                yield batch
            if sought == self._sought:
                return

    def _carried(self, pass_index: int, step: int) -> Position:
        """The end of a pass is the beginning of the next."""
        return Position(pass_index + 1, 0) if step == self._choice.steps else Position(pass_index, step)

    def _identity(self) -> dict[str, Any]:
        choice = self._choice
        return {
            "version": STATE_VERSION,
            "data": self._examples.identity,
            "batch_size": choice.order.batch_size,
            "lanes": choice.order.lanes,
            "reshuffle": choice.reshuffle,
            "seed": choice.seed,
            "drop_last": choice.drop_last,
            "by_length": choice.by_length,
        }

    def _made(self, first: Position) -> Iterator[tuple[int, Batch]]:
        """Every minibatch from ``first`` to the end of its pass, with its step."""
        if get_worker_info() is not None:
            do = "set num_workers=0, and batches(ahead=…) or open(decode_threads=…) to read in other threads"
            raise ConfigError(complaint("DataLoader", expected="no workers", found="some", do=do))
        if expected := self._expected:
            self._own_reader().expect(expected)
        if self._streamed is None and self._followed != (os.getpid(), first):
            self._own_reader().follow(self._upcoming(first))
        if self._streamed is not None:
            self._streamed.begin(self._work, first)
            if self._augmentation is not None and (self._ahead or self._device is not None):
                self._no_examples  # noqa: B018  # made here: a thread would share the generators that it sets
        steps = range(first.step, len(self))
        if self._device is None and not self._ahead:
            return ((step, self._read(first.pass_index, step)) for step in steps)
        depth = max(self._ahead, 1)
        if self._device is None:
            return made_ahead(lambda step: self._read(first.pass_index, step), steps, depth)
        copies = Copies(self._device)
        coming = made_ahead(lambda step: copies.begin(self._read(first.pass_index, step)), steps, depth)
        return ((step, copies.arrived(*begun)) for step, begun in coming)

    @property
    def _expected(self) -> list[tuple[int, int]]:
        """The runs that are read, where these are not all."""
        choice = self._choice
        in_order = choice.reshuffle == "stored" and choice.by_length is None and self._examples.parts is None
        part = choice.lane is not None and in_order
        return choice.order.left(range(choice.lane or 0, (choice.lane or 0) + 1), 0) if part else []

    @property
    def _work(self) -> StreamersWork:
        order = self._choice.order
        largest = order.batch_size if self._choice.lane is None else order.batch_size // order.lanes
        return StreamersWork(self._own_reader, self._selection, len(self), largest, self._expected, self._augmentation)

    def _read(self, pass_index: int, step: int) -> Batch:
        if self._streamed is not None:
            return _tensors(self._streamed.get(self._work) or self._no_examples)
        self._followed = None  # where this one fails, what was to come has to be said anew
        selection = self._selection(pass_index, step)
        batch = _tensors(self._own_reader().select(selection, self._augmentation) or self._no_examples)
        self._followed = os.getpid(), self._carried(pass_index, step + 1)
        return batch

    def _upcoming(self, first: Position) -> Iterator[Selection]:
        """What is read from a position on, pass after pass."""
        for step in range(first.step, len(self)):
            yield self._selection(first.pass_index, step)
        for pass_index in itertools.count(first.pass_index + 1):
            for step in range(len(self)):
                yield self._selection(pass_index, step)

    @cached_property
    def _no_examples(self) -> Arrays:
        """A batch of none. Its form is the first example's, so a replay from anywhere gives the same."""
        return {name: array[:0] for name, array in self._own_reader().first_good(self._augmentation).items()}

    def _selection(self, pass_index: int, step: int) -> Selection:
        choice = self._choice
        if choice.order.lanes == 1:  # a minibatch is one run of the pass: the usual case, kept short
            start = step * choice.order.batch_size
            stop = min(start + choice.order.batch_size, choice.order.used)
            return self._passes.stored(pass_index, start, stop)
        return select_minibatch(choice.order, self._passes, Position(pass_index, step), choice.lane)


def _passes(examples: Examples, choice: Choice) -> Passes:
    """The order of each pass."""
    order = choice.order
    if examples.parts is not None:
        return PartPasses(examples.parts, order.examples, order.used, order.lanes, choice.reshuffle, choice.seed)
    passes = passes_of(choice.reshuffle, order.examples, examples.shards, choice.seed)
    if choice.by_length is None:
        return passes
    return LengthPasses(passes, examples.lengths(choice.by_length), order.ranges, order.batch_size, choice.seed)


def _tensors(arrays: Arrays) -> Batch:
    return {name: torch.from_numpy(a) if a.dtype.kind in "biufc" else a.tolist() for name, a in arrays.items()}
