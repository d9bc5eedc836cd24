"""Which data set, which of its fields, and what happens to them on the way to the model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from streamtrain.checks import require, require_count, require_declared
from streamtrain.job.data.balanced import Balanced
from streamtrain.job.data.collate import check_collate, pads_of
from streamtrain.job.data.functions import Augment, AugmentBatch, Collate, Map, Transform
from streamtrain.job.data.in_rows import Pack
from streamtrain.job.data.mixture import Mixture
from streamtrain.job.data.padding import Pad
from streamtrain.job.settings import MayChange

CACHE_BYTES = 32 * 2**30
"""Bound on the host's cache of fetched shards, unless a job sets another."""


@dataclass(frozen=True)
class Data:
    """Which data set and which of its fields."""

    url: MayChange[str | Mixture]
    """Folder or URL (s3, gs, az, http, https, hf) of a data set that `streamtrain pack` made; or several with shares,
    st.Mixture({"data/a": 0.7, "data/b": 0.3}).

    A folder may also be one with train/*.tar and validation/*.tar of other origin.
    """
    inputs: tuple[str, ...] = ("image",)
    """Fields that the model is called with, in this order; those that `map` makes count too."""
    target: str | tuple[str, ...] = "label"
    """Field that the loss and the error compare the model's output with, or several, of which they get a dict; one that
    `map` makes counts too."""
    extra: tuple[str, ...] = ()
    """Further fields to read, for `map`, `augment` and `transform`. Where `map` makes inputs or the target: the stored
    fields that it takes; all of them by default."""
    transform: Transform | None = None
    """Function from a batch, dict of tensors with examples along the first axis, to a batch: scaling, types, …; in
    training and in evaluation, so it must not draw."""
    map: Map | None = None
    """Function from one decoded example, a dict, to a dict of arrays or numbers of one form: tokens, spectrograms, …;
    in training and in evaluation, so it must not draw."""
    augment: Augment | None = None
    """Function (example, rng) -> example, after `map` and in training only: random crops, flips, noise, …; `rng` is a
    numpy.random.Generator of (seed, pass, the example's stored number)."""
    collate: Collate | None = None
    """How examples of different shapes become a batch, after `map` and `augment`, in training and in evaluation:
    st.Pad("tokens"), several in a tuple, st.Pack("tokens", length=512), which lays several examples into one row, or a
    function from a list of examples, dicts, to a batch, a dict of arrays whose first axis is the example; it must not
    draw."""
    augment_batch: AugmentBatch | None = None
    """Function (batch, generator) -> batch, after `transform` and in training only, on the device: erasing, mixing, …;
    `generator` is a torch.Generator of (seed, step, lane)."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to; large JPEGs are decoded at a fraction of their size."""
    image_mode: Literal["stored", "grey", "rgb", "rgba"] = "stored"
    """Kind that images are brought to, of 8 bits; stored: the kind that each has, 16 bits and alpha kept."""
    image_background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue of what alpha is laid on where image_mode is grey or rgb."""
    balance: Balanced | None = None
    """Classes with equal shares of every minibatch in training: st.Balanced("label"); or examples as often as their
    weights say: st.Balanced(weights="weight"). It changes the risk that is minimized; risks and their gap are measured
    on the examples as they are."""
    by_length: str | None = None
    """Minibatches of neighbours in length, by this field: arrays of different lengths, texts, or whole numbers. Among
    the examples of 100 minibatches each; these come in a random order, and a pass has each example once."""
    decode_threads: MayChange[int] = 1
    """Threads that decode in each of the processes that read ahead of a worker."""
    streamers: MayChange[int] = 1
    """Processes for each worker that read, decode, map and augment ahead of it: several for functions in Python, which
    threads do not speed up. The bits are the same. Examples that need nothing of that are read by the worker itself."""
    on_bad_example: Literal["stop", "skip"] = "stop"
    """What to do about an example that cannot be decoded, or that `map` refuses."""
    max_bad_examples: int = 100
    """Stop when more examples than this were skipped."""
    verify: MayChange[bool] = True
    """Check every shard's checksum when a worker first opens it; what is fetched from a URL is always checked."""
    cache: MayChange[str | None] = None
    """Folder for shards fetched from a URL, on a disk of the host; ~/.cache/streamtrain by default."""
    cache_bytes: MayChange[int] = CACHE_BYTES
    """Bytes that the shards in the cache may have, over all runs on the host."""

    def __post_init__(self) -> None:
        do = "name one data set's folder or URL"
        given = bool(self.url) and isinstance(self.url, str | os.PathLike | Mixture)
        require(given, "data.url", "a folder", self.url, do)
        require_count("data.cache_bytes", self.cache_bytes)
        do = 'name fields, e.g. inputs=("image",)'
        for name in ("inputs", "extra"):
            value = getattr(self, name)
            names = isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
            require(names, f"data.{name}", "a tuple of fields' names", value, do)
        for name in ("transform", "map", "augment", "augment_batch"):
            value = getattr(self, name)
            do = "give the function itself, or leave it out"
            require(value is None or callable(value), f"data.{name}", "a function", value, do)
        check_collate("data.collate", self.collate)
        do = 'name a field, or several, e.g. target=("class", "box")'
        named = isinstance(self.target, str | tuple | list) and all(isinstance(each, str) for each in self.targets)
        require(named, "data.target", "the name of a field, or names", self.target, do)
        balanced = self.balance is None or isinstance(self.balance, Balanced)
        do = 'declare it, e.g. st.Balanced("label"), or leave it out'
        require(balanced, "data.balance", "st.Balanced(…)", self.balance, do)
        named = self.by_length is None or (isinstance(self.by_length, str) and bool(self.by_length))
        do = 'name one, e.g. by_length="tokens", or leave it out'
        require(named, "data.by_length", "the name of a field", self.by_length, do)
        require_declared(self, "data.")  # after what can be said better
        require_count("data.decode_threads", self.decode_threads)
        require_count("data.streamers", self.streamers)
        require_count("data.max_bad_examples", self.max_bad_examples, lowest=0)
        colour = len(self.image_background) == 3 and all(0 <= level <= 255 for level in self.image_background)
        expected, do = "three numbers from 0 to 255", "e.g. (255, 255, 255) for white"
        require(colour, "data.image_background", expected, self.image_background, do)
        for side in self.image_size or ():
            require_count("data.image_size", side)

    @property
    def mixture(self) -> Mixture | None:
        """The data sets with shares; ``None`` where there is one."""
        return self.url if isinstance(self.url, Mixture) else None

    @property
    def place(self) -> str:
        """The folder or URL; of a mixture there is none.

        Raises:
            TypeError: it is a mixture.
        """
        if isinstance(self.url, Mixture):
            raise TypeError(f"several data sets: {self.url}")
        return self.url

    @property
    def pads(self) -> tuple[Pad, ...]:
        """The fields that `collate` pads; none where it is something else."""
        return pads_of(self.collate)

    @property
    def pack(self) -> Pack | None:
        """What `collate` lays into rows, if anything."""
        return self.collate if isinstance(self.collate, Pack) else None

    @property
    def resized(self) -> tuple[str, ...]:
        """The fields that may have another length in each example, since `collate` pads them or lays them into rows."""
        return tuple(pad.field for pad in self.pads) if self.pack is None else self.pack.names

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the target's fields."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @property
    def fields_used(self) -> tuple[str, ...]:
        """What the model and the loss take, each once; none where an objective takes the batch."""
        return tuple(dict.fromkeys((*self.inputs, *self.targets)))

    def fields_read(self, stored: Iterable[str]) -> tuple[str, ...]:
        """Fields that are read, each once; of a data set that has the ``stored`` ones.

        What is used and not stored, `map` or `collate` makes, out of ``extra`` or else of anything. Where neither is
        a function, it is among them all the same: to be refused by name.
        """
        there = tuple(stored)
        made = {pad.length_field for pad in self.pads} if self.pack is None else {*self.pack.made}
        wanted = dict.fromkeys((*self.fields_used, *self.resized))
        needed = [name for name in wanted if name in there or name not in made]
        missing = [name for name in needed if name not in there]
        if (self.map is None and not callable(self.collate)) or not missing:
            return tuple(dict.fromkeys((*needed, *self.extra)))
        used = tuple(name for name in needed if name in there)
        return tuple(dict.fromkeys((*used, *self.extra))) if self.extra else there
