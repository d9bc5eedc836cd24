"""A batch size that changes while a run goes on, and how the learning rate goes with it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from streamtrain.checks import require, require_count, require_declared
from streamtrain.errors import ConfigError, complaint
from streamtrain.job.settings import OneSetting

BY_USE = re.compile(r"(\d+):(\d+)")
SET = re.compile(r"(most|follow|every|scale_lr)=(\w+)")
SPELLED = "64, 0:64,100000:256 or 64,most=1024,follow=noise_scale"


@dataclass(frozen=True)
class BatchSize(OneSetting):
    """Examples of a minibatch: sizes by examples used, or a first one that doubles as the gradient's noise allows.

    ``BatchSize({0: 64, 100_000: 256})``: minibatches have 64 examples, and 256 once 100,000 were used, over all passes.
    ``BatchSize(64, most=1024, follow="noise_scale")``: 64, doubled each time that the measured noise scale says that
    twice as many cost less than 10 % of the progress per example.
    """

    sizes: int | Mapping[int, int]
    """By the number of examples used, from 0; or the first one, with `follow`."""
    most: int | None = None
    """The largest, with `follow`: the first, doubled some times."""
    follow: Literal["noise_scale"] | None = None
    """What says when the batch doubles."""
    every: int = 50
    """With `follow`, steps from one decision to the next."""
    scale_lr: Literal["linear", "root", "none"] | None = None
    """What the learning rate is multiplied by: the ratio of the size to the first one, its root, or nothing; by
    default as the optimizer has it (`Optimizer.scaling`)."""

    def __post_init__(self) -> None:
        require_declared(self, "batch_size.")
        require_count("batch_size.every", self.every)
        if self.follow is None:
            require(self.most is None, "batch_size.most", "none without follow", self.most, 'set follow="noise_scale"')
            self._check_sizes()
        else:
            self._check_following()

    def _check_sizes(self) -> None:
        sizes = self.sizes
        do = "e.g. st.BatchSize({0: 64, 100_000: 256}), or batch_size=64 for one that never changes"
        given = isinstance(sizes, Mapping) and len(sizes) > 0
        require(given, "batch_size", "sizes by examples used", sizes, do)
        assert isinstance(sizes, Mapping)
        used = list(sizes)
        for each, size in sizes.items():
            require_count("batch_size, examples used", each, lowest=0)
            require_count(f"batch_size, once {each:,} examples are used", size)
        rising = used[0] == 0 and all(before < after for before, after in itertools.pairwise(used))
        require(rising, "batch_size", "numbers of examples used that rise from 0", used, "put them in order, 0 first")

    def _check_following(self) -> None:
        do = 'e.g. st.BatchSize(64, most=1024, follow="noise_scale")'
        require(isinstance(self.sizes, int), "batch_size", "one first size with follow", self.sizes, do)
        require_count("batch_size", self.first)
        require_count("batch_size.most", self.most)
        most = self.most or 0
        doubled = most >= self.first and most in self.all
        expected = f"the first size, {self.first}, doubled some times"
        require(doubled, "batch_size.most", expected, self.most, f"e.g. {16 * self.first}")

    @property
    def first(self) -> int:
        """Examples of the first minibatch."""
        return self.sizes if isinstance(self.sizes, int) else self.sizes[0]

    @property
    def later(self) -> tuple[tuple[int, int], ...]:
        """(examples used, size from there on), as far as that is fixed before the run."""
        return () if isinstance(self.sizes, int) else tuple(self.sizes.items())[1:]

    @property
    def all(self) -> tuple[int, ...]:
        """Every size that there may be."""
        doubled = range(((self.most or self.first) // self.first).bit_length())
        return (*(self.first << times for times in doubled), *(size for _, size in self.later))

    def __str__(self) -> str:
        """As `spelled` takes it."""
        sizes = str(self.sizes) if isinstance(self.sizes, int) else ",".join(f"{u}:{s}" for u, s in self.sizes.items())
        others = ((each.name, getattr(self, each.name), each.default) for each in fields(self)[1:])
        return ",".join([sizes, *(f"{name}={value}" for name, value, default in others if value != default)])

    @classmethod
    def spelled(cls, text: str) -> int | Self:
        """What a flag says: a number, or sizes and settings with commas between them.

        Raises:
            ConfigError: it says neither.
        """
        words = [word.strip() for word in text.split(",")]
        firsts = [int(word) for word in words if word.isdecimal()]
        sizes = {int(match[1]): int(match[2]) for match in map(BY_USE.fullmatch, words) if match}
        settings = {match[1]: match[2] for match in map(SET.fullmatch, words) if match}
        understood = len(firsts) + len(sizes) + len(settings) == len(words)
        if not understood or len(firsts) != (not sizes):
            raise ConfigError(complaint("--batch-size", expected=SPELLED, found=repr(text), do="see --help"))
        if firsts and not settings:
            return firsts[0]
        values: dict[str, Any] = {name: int(each) if each.isdecimal() else each for name, each in settings.items()}
        return cls(sizes or firsts[0], **values)


def first_size(batch_size: int | BatchSize) -> int:
    """Examples of a run's first minibatch."""
    return batch_size if isinstance(batch_size, int) else batch_size.first
