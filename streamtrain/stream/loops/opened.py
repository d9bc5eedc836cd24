"""`st.open`: one split of a data set, by the number of its examples, as minibatches or as WebDataset's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.checks import require, require_count
from streamtrain.errors import ConfigError, complaint
from streamtrain.images.kinds import WHITE, Color, Mode
from streamtrain.job import CACHE_BYTES, Collate, Mixture
from streamtrain.job.data import check_collate
from streamtrain.order import Order, Parts, Reshuffle
from streamtrain.shards import Manifest
from streamtrain.stream.examples import Decoding, Map
from streamtrain.stream.examples.augmenting import Augment
from streamtrain.stream.fetch.cache import cache_folder
from streamtrain.stream.loops.batches import Batches, Choice
from streamtrain.stream.loops.own_reader import OwnReader, ReaderSource
from streamtrain.stream.loops.webdataset_samples import Samples
from streamtrain.stream.opening import open_dataset
from streamtrain.stream.reader import Reader
from streamtrain.stream.whole.column import field_of
from streamtrain.stream.whole.lengths import lengths_of
from streamtrain.stream.whole.mixed import joined_manifest, open_sources, parts_of
from streamtrain.values import Arrays


def open(  # noqa: A001  # `st.open` says what it does
    url: str | Path | Mixture,
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
    """One split of a data set that `pack` made, or of a folder with ``train/*.tar`` and so on; or of a mixture.

    Args:
        url: the data set's folder, or a URL of it; or ``st.Mixture({"data/a": 0.7, "data/b": 0.3})``, whose minibatches
            have these shares, and whose examples are numbered part after part.
        fields: those to read; all by default, of a mixture those that are alike in all of its data sets.
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
    sources = open_sources(url, (split,)) if isinstance(url, Mixture) else ()
    manifest = joined_manifest(sources, fields or ()) if sources else open_dataset(str(url))
    names = tuple(fields) if fields is not None else tuple(field.name for field in manifest.fields)
    decoding = Decoding(map, image_size, decode_threads, on_bad_example, image_mode, image_background)
    source = ReaderSource(str(url), manifest, split, names, decoding, verify, cache_folder(cache), cache_bytes, sources)
    own_reader = OwnReader(source)
    starts = manifest.splits[split].shards
    shards = [starts.start(index) for index in range(len(starts) + 1)]
    require_count("streamers", streamers, lowest=0)
    parts = parts_of(url, sources, split) if isinstance(url, Mixture) else None
    shares = "" if parts is None else "/" + ",".join(str(weight) for weight in parts.weights)
    identity = f"{manifest.digest}/{split}{shares}"
    return Examples(own_reader, identity, shards, manifest, Preparing(augment, streamers), parts)


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
        parts: Parts | None = None,
    ) -> None:
        self.own_reader = own_reader
        self.identity = identity
        self.shards = shards
        self.manifest = manifest
        self.preparing = preparing
        self.parts = parts

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
        collate: Collate | None = None,
        by_length: str | None = None,
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
            collate: how examples of different shapes become a batch: ``st.Pad("tokens")``, several in a tuple,
                ``st.Pack("tokens", length=512)``, or a function from a list of examples to a dict of arrays, first axis
                the example.
            by_length: minibatches of neighbours in length, by this stored field, which is read whole: arrays of
                different lengths, texts, or whole numbers; a pass has each example once all the same.
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
        check_collate("batches, collate", collate)
        if self.parts is not None:
            do = "leave it out, or open one data set"
            require(reshuffle != "shards", "batches, reshuffle", "stored or examples of a mixture", reshuffle, do)
            require(by_length is None, "batches, by_length", "none of a mixture", by_length, do)
        chosen = Choice(order, lane, reshuffle, seed, drop_last, collate, by_length)
        if not chosen.steps:
            expected, do = "at least one full minibatch", "lower batch_size or set drop_last=False"
            raise ConfigError(complaint("batches", expected=expected, found=f"{len(self)} examples", do=do))
        return Batches(self, chosen, None if device is None else torch.device(device), ahead)

    def lengths(self, name: str) -> NDArray[np.int64]:
        """The length of every example, by a stored field; see `batches`, ``by_length``.

        Raises:
            ConfigError: no such field, or one without lengths.
        """
        setting = "batches, by_length"
        field = field_of(setting, name, self.reader.place, self.manifest)
        return lengths_of(setting, field, self.own_reader.of_field(name))

    def samples(self) -> Samples:
        """The examples as WebDataset's samples, for the front of a `webdataset.DataPipeline`."""
        return Samples(self.own_reader)
