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

    A row is an example. ``by_length`` takes most of the padding away, `Pack` nearly all of it where the model can take
    several examples in a row; `streamtrain pack --tokens` lays texts into full rows, which are the examples then.
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
