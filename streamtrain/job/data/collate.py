"""What may be declared as ``collate``: how examples of different shapes become a batch."""

from __future__ import annotations

from streamtrain.checks import require
from streamtrain.job.data.in_rows import Pack
from streamtrain.job.data.padding import Pad


def pads_of(collate: object) -> tuple[Pad, ...]:
    """The pads that a declared ``collate`` is; none where it is something else."""
    given = tuple(collate) if isinstance(collate, tuple | list) else (collate,)
    pads = tuple(pad for pad in given if isinstance(pad, Pad))
    return pads if len(pads) == len(given) else ()


def check_collate(setting: str, collate: object) -> None:
    """One pad, several of different fields, rows, a function, or none.

    Raises:
        ConfigError: it is something else.
    """
    pads = pads_of(collate)
    do = "give one of these, or leave it out"
    expected = 'st.Pad("field"), a tuple of them, st.Pack("field", length=…), or a function'
    known = collate is None or callable(collate) or isinstance(collate, Pack) or bool(pads)
    beside = isinstance(collate, tuple | list) and any(isinstance(each, Pack) for each in collate)
    do = "let st.Pack alone lay several fields into rows, and pad others in data.map" if beside else do
    require(known, setting, expected, collate, do)
    names = [pad.field for pad in pads]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, setting, "each field padded once", ", ".join(twice), "leave one of its st.Pads out")
