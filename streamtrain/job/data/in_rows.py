"""Several short sequences in one row, so that little is padded."""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.checks import require, require_count, require_declared
from streamtrain.job.data.padding import LENGTH
from streamtrain.job.settings import OneSetting


@dataclass(frozen=True)
class Pack(OneSetting):
    """Lays the sequences of the examples that are collated together one behind the other into rows of one length.

    A sequence that does not fit into what is left of a row begins the next one, so a row holds neighbours, whole ones.
    What stands where is a function of the lengths, in their order. The model gets rows; losses, errors and metrics get
    the entries of all examples one behind the other, without the padding, and what they say of each entry is added up
    for its example. So an example stays what is counted, weighted and reported.

    Beside the fields come, of ``tokens`` (the first of them), int64 each:

    - ``tokens_example``, shape (rows, length): the number in the batch of the example that an entry is of, -1 of none;
    - ``tokens_position``, shape (rows, length): the entry's place in its sequence, from 0 on;
    - ``tokens_length``, shape (examples,): entries of each example;
    - ``tokens_row``, shape (examples,): the row that each lies in.

    ``micro_batch`` cuts between rows: a piece has whole ones, with so many examples in all or fewer, and at least one.
    """

    fields: str | tuple[str, ...]
    """One field, or several that are as long as each other in every example, as tokens and what follows each."""
    length: int
    """Entries of a row; an example that has more is refused."""
    value: float = 0
    """What is put behind the last sequence of a row; only the model sees it."""
    cut: bool = False
    """Keep the first ``length`` entries of an example that has more, in place of refusing it."""

    def __post_init__(self) -> None:
        require_declared(self, "st.Pack, ")
        names = self.names
        do = 'name one, or several, e.g. st.Pack(("tokens", "next"), length=512)'
        given = isinstance(names, tuple) and bool(names) and all(isinstance(name, str) and name for name in names)
        require(given, "st.Pack, fields", "names of fields", self.fields, do)
        once = len(set(names)) == len(names)
        require(once, "st.Pack, fields", "each field once", self.fields, "leave one of them out")
        require_count("st.Pack, length", self.length)

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are laid into rows; the first gives what is made its name."""
        return (self.fields,) if isinstance(self.fields, str) else tuple(self.fields)

    @property
    def example_field(self) -> str:
        """The field that says whose each entry is."""
        return self.names[0] + "_example"

    @property
    def position_field(self) -> str:
        """The field of every entry's place in its sequence."""
        return self.names[0] + "_position"

    @property
    def length_field(self) -> str:
        """The field of the examples' lengths."""
        return self.names[0] + LENGTH

    @property
    def row_field(self) -> str:
        """The field of the rows that examples lie in."""
        return self.names[0] + "_row"

    @property
    def made(self) -> tuple[str, ...]:
        """The names of the fields that it adds."""
        return self.example_field, self.position_field, self.length_field, self.row_field
