"""`st.open`: a data set for plain PyTorch loops and WebDataset pipelines, without jobs, Ray or MLflow.

The same reading and the same order as in a run: minibatches are a function of (data set, seed, batch size, lanes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import IterableDataset, get_worker_info

from streamtrain.checks import require_count
from streamtrain.errors import ConfigError, complaint
from streamtrain.images.kinds import WHITE, Color, Mode
from streamtrain.job import CACHE_BYTES
from streamtrain.order import Order, Reshuffle, passes_of, select_minibatch
from streamtrain.shards import Manifest
from streamtrain.stream.ahead.copies import Copies
from streamtrain.stream.ahead.streamed_batches import StreamedBatches, StreamersWork
from streamtrain.stream.ahead.thread import made_ahead
from streamtrain.stream.examples import Decoding, Map
from streamtrain.stream.examples.augmenting import Augment, Augmentation
from streamtrain.stream.fetch.cache import cache_folder
from streamtrain.stream.opening import open_dataset
from streamtrain.stream.own_reader import OwnReader, ReaderSource
from streamtrain.stream.reader import Reader
from streamtrain.stream.webdataset_samples import Samples
from streamtrain.values import Arrays, Position, Selection

if TYPE_CHECKING:
    Batch = dict[str, Any]
    BatchDataset = IterableDataset[Batch]
else:
    BatchDataset = IterableDataset

STATE_VERSION = 1


def open(  # noqa: A001  # `st.open` says what it does
    url: str | Path,
    split: str = "train",
    *,
    fields: Sequence[str] | None = None,
    map: Map | None = None,
    augment: Augment | None = None,
    image_size: tuple[int, int] | None = None,
    image_mode: Mode = "stored",
    image_background: Color = WHITE,
    decode_threads: int = 1,
    streamers: int = 0,
    on_bad_example: Literal["stop", "skip"] = "stop",
    verify: bool = True,
    cache: str | Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Examples:
    """One split of a data set that `pack` made, or of a folder with ``train/*.tar`` and so on.

    Args:
        url: the data set's folder, or a URL of it.
        fields: those to read; all by default.
        map: function from one decoded example to a dict of arrays or numbers of one form.
        augment: function (example, rng) -> example, after ``map``, for `Examples.batches` only; ``rng`` is a
            `numpy.random.Generator` of (seed, pass, the example's number), and the global generators are set with it.
        image_size: height and width that images are brought to.
        image_mode: ``grey``, ``rgb`` or ``rgba``; by default each image has the kind that it is stored in.
        image_background: red, green and blue of what alpha is laid on, for ``grey`` and ``rgb``.
        decode_threads: threads that decode what is not stored as arrays.
        streamers: processes that read, decode, map and augment for `Examples.batches`; 0: this process does.
        on_bad_example: stop with its key, or skip it and note it in ``skipped``.
        verify: check every shard's checksum when it is first opened.
        cache: folder for the shards of a URL, shared by all processes of the host; the user's cache by default.
        cache_bytes: bound on that folder.

    Raises:
        ConfigError, DataError: no such data set, split or field.
    """
    manifest = open_dataset(str(url))
    names = tuple(fields) if fields is not None else tuple(field.name for field in manifest.fields)
    decoding = Decoding(map, image_size, decode_threads, on_bad_example, image_mode, image_background)
    source = ReaderSource(str(url), manifest, split, names, decoding, verify, cache_folder(cache), cache_bytes)
    own_reader = OwnReader(source)
    starts = manifest.splits[split].shards
    shards = [starts.start(index) for index in range(len(starts) + 1)]
    require_count("streamers", streamers, lowest=0)
    return Examples(own_reader, f"{manifest.digest}/{split}", shards, manifest, Preparing(augment, streamers))


@dataclass(frozen=True)
class Preparing:
    """What `Examples.batches` does beyond reading: a random change of every example, and by how many processes."""

    augment: Augment | None
    streamers: int


class Examples:
    """The examples of a split by their number in the stored order; what `open` gives.

    It can be pickled, and has its own shards open in every process: a `DataLoader` may read it with any number of
    workers, however these are started.
    """

    def __init__(
        self,
        own_reader: OwnReader,
        identity: str,
        shards: Sequence[int],
        manifest: Manifest,
        preparing: Preparing,
    ) -> None:
        self.own_reader = own_reader
        self.identity = identity
        self.shards = shards
        self.manifest = manifest
        self.preparing = preparing

    @property
    def reader(self) -> Reader:
        """This process's."""
        return self.own_reader()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the label's values 0, 1, …, where they stand for classes; the manifest has those of other fields."""
        field = self.manifest.field_named(self.manifest.label or "")
        return () if field is None or field.classes is None else field.classes

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Names of the entries of each field that holds several columns of a table side by side."""
        return {field.name: field.columns for field in self.manifest.fields if field.columns is not None}

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, numbers: int | slice) -> Arrays:
        """Examples as arrays, first axis the example; one example without that axis."""
        if isinstance(numbers, int):
            number = range(len(self))[numbers]
            return {name: array[0] for name, array in self.reader.read(number, number + 1).items()}
        start, stop, step = numbers.indices(len(self))
        if step != 1 or start >= stop:
            raise IndexError(f"{numbers}: a range of examples with step 1")
        return self.reader.read(start, stop)

    def batches(
        self,
        batch_size: int,
        *,
        lanes: int = 1,
        lane: int | None = None,
        reshuffle: Reshuffle = "stored",
        seed: int = 0,
        drop_last: bool = False,
        device: str | torch.device | None = None,
        ahead: int = 0,
    ) -> Batches:
        """Minibatches as tensors; texts, bytes and dicts as lists.

        Args:
            batch_size: examples of a minibatch, over all lanes; a multiple of ``lanes``.
            lanes, lane: of several processes, each takes one lane's part of every minibatch (rank, world size).
            reshuffle: order of the passes after the first; see `Epochs`.
            seed: of the orders of the passes after the first, and of ``augment``.
            drop_last: leave the short last minibatch of a pass out.
            device: where the tensors go; to a GPU through pinned memory and on a stream of its own.
            ahead: minibatches read and copied ahead, by a thread. With an ``augment`` that takes ``streamers``: the
                generators that it is given are the process's, and the loop may draw from them.

        Raises:
            ConfigError: a size or number that does not fit.
        """
        if self.preparing.augment is not None and not self.preparing.streamers and (ahead or device is not None):
            expected, do = (
                "0, and no device, beside augment",
                "give open(…, streamers=1) as well",
            )
            raise ConfigError(complaint("batches, ahead", expected=expected, found=f"{ahead}, {device}", do=do))
        try:
            order = Order(len(self), lanes, batch_size)
        except ValueError as error:
            raise ConfigError(f"batches: {error}; change batch_size or lanes") from None
        if lane is not None and not 0 <= lane < lanes:
            raise ConfigError(complaint("lane", expected=f"0 to {lanes - 1}", found=str(lane), do="change it"))
        chosen = Choice(order, lane, reshuffle, seed, drop_last)
        if not chosen.steps:
            expected, do = "at least one full minibatch", "lower batch_size or set drop_last=False"
            raise ConfigError(complaint("batches", expected=expected, found=f"{len(self)} examples", do=do))
        return Batches(self, chosen, None if device is None else torch.device(device), ahead)

    def samples(self) -> Samples:
        """The examples as WebDataset's samples, for the front of a `webdataset.DataPipeline`."""
        return Samples(self.own_reader)


@dataclass(frozen=True)
class Choice:
    """Which examples, in which order; see `Examples.batches`."""

    order: Order
    lane: int | None
    reshuffle: Reshuffle
    seed: int
    drop_last: bool

    @property
    def steps(self) -> int:
        """Minibatches of a pass."""
        return self.order.used // self.order.batch_size if self.drop_last else self.order.steps


class Batches(BatchDataset):
    """Minibatches, each a dict of tensors with the example along the first axis.

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
        self._device = device
        self._ahead = ahead
        order = choice.order
        self._passes = passes_of(choice.reshuffle, order.examples, examples.shards, choice.seed)
        augment = examples.preparing.augment
        self._augmentation = None if augment is None else Augmentation(augment, choice.seed)
        self._streamed = StreamedBatches(examples.preparing.streamers) if examples.preparing.streamers else None
        self._position = Position(0, 0)
        self._sought = 0

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
        }

    def _made(self, first: Position) -> Iterator[tuple[int, Batch]]:
        """Every minibatch from ``first`` to the end of its pass, with its step."""
        if get_worker_info() is not None:
            do = "set num_workers=0, and batches(ahead=…) or open(decode_threads=…) to read in other threads"
            raise ConfigError(complaint("DataLoader", expected="no workers", found="some", do=do))
        if expected := self._expected:
            self._examples.reader.expect(expected)
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
        part = choice.lane is not None and choice.reshuffle == "stored"
        return choice.order.left(range(choice.lane or 0, (choice.lane or 0) + 1), 0) if part else []

    @property
    def _work(self) -> StreamersWork:
        order = self._choice.order
        largest = order.batch_size if self._choice.lane is None else order.batch_size // order.lanes
        return StreamersWork(
            self._examples.own_reader, self._selection, len(self), largest, self._expected, self._augmentation
        )

    def _read(self, pass_index: int, step: int) -> Batch:
        if self._streamed is not None:
            return _tensors(self._streamed.get(self._work) or self._no_examples)
        selection = self._selection(pass_index, step)
        return _tensors(self._examples.reader.select(selection, self._augmentation) or self._no_examples)

    @cached_property
    def _no_examples(self) -> Arrays:
        """A batch of none. Its form is the first example's, so a replay from anywhere gives the same."""
        return {name: array[:0] for name, array in self._examples.reader.first_good(self._augmentation).items()}

    def _selection(self, pass_index: int, step: int) -> Selection:
        choice = self._choice
        if choice.order.lanes == 1:  # a minibatch is one run of the pass: the usual case, kept short
            start = step * choice.order.batch_size
            stop = min(start + choice.order.batch_size, choice.order.used)
            return self._passes.stored(pass_index, start, stop)
        return select_minibatch(choice.order, self._passes, Position(pass_index, step), choice.lane)


def _tensors(arrays: Arrays) -> Batch:
    return {name: torch.from_numpy(a) if a.dtype.kind in "biufc" else a.tolist() for name, a in arrays.items()}
