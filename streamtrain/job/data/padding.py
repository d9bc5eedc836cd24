"""Examples of different lengths as one batch: one field padded to the longest of them."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared
from streamtrain.job.settings import OneSetting

LENGTH = "_length"
"""What the name of a padded field ends in where its lengths stand."""


@dataclass(frozen=True)
class Pad(OneSetting):
    """Pads a field along its first axis; adds the lengths before as an int64 field, ``tokens_length`` of ``tokens``.

    The padded length is that of the longest example of those that are collated together, a lane's part of a minibatch,
    rounded up to ``multiple_of``: a function of these examples alone, whoever reads them.

    Several short sequences are not laid into one row. A row would then be no example, and a batch is cut by its first
    axis: into pieces of ``micro_batch``, by the trial, which holds that an example's loss is its own, for predictions
    by key, and in the stream of a streamer. Its count, its loss and its standard error are of examples. ``by_length``
    takes most of the padding away; `streamtrain pack --tokens` lays texts into full rows, which are the examples then.
    """

    field: str
    """The field; arrays of one type, of the same shape but for their first axis."""
    value: float = 0
    """What is put behind an example's own entries."""
    multiple_of: int = 8
    """The padded length is a multiple of this, or ``longest``: few different lengths, which kernels like."""
    longest: int | None = None
    """Entries that an example may have, and the most that a batch is padded to; an example that has more is refused."""
    cut: bool = False
    """Keep the first ``longest`` entries of an example that has more, in place of refusing it."""

    def __post_init__(self) -> None:
        require_declared(self, "st.Pad, ")
        require(bool(self.field), "st.Pad, field", "a field's name", self.field, 'name one, e.g. st.Pad("tokens")')
        require_count("st.Pad, multiple_of", self.multiple_of)
        require_count("st.Pad, longest", self.longest)
        do = "set longest to how many entries are kept"
        require(self.longest is not None or not self.cut, "st.Pad, longest", "a number beside cut", self.longest, do)

    @property
    def length_field(self) -> str:
        """The field of its lengths."""
        return self.field + LENGTH

    def padded_length(self, longest: int) -> int:
        """Entries of a batch whose longest example has so many: at least ``multiple_of``, so that it is not empty."""
        rounded = max(1, -(-longest // self.multiple_of)) * self.multiple_of
        return rounded if self.longest is None else max(longest, min(rounded, self.longest))


def pads_of(collate: object) -> tuple[Pad, ...]:
    """The pads that a declared ``collate`` is; none where it is something else."""
    given = tuple(collate) if isinstance(collate, tuple | list) else (collate,)
    pads = tuple(pad for pad in given if isinstance(pad, Pad))
    return pads if len(pads) == len(given) else ()


def check_collate(setting: str, collate: object) -> None:
    """One pad, several of different fields, a function, or none.

    Raises:
        ConfigError: it is something else.
    """
    pads = pads_of(collate)
    expected, do = 'st.Pad("field"), a tuple of them, or a function', "give one of these, or leave it out"
    require(collate is None or callable(collate) or bool(pads), setting, expected, collate, do)
    names = [pad.field for pad in pads]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, setting, "each field padded once", ", ".join(twice), "leave one of its st.Pads out")
