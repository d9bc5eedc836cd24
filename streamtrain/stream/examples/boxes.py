"""Values of examples as arrays: numbers as they are, and what has no form of its own as one object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMLESS = str, bytes, dict
"""They stay what they are: numpy would cut the last zeros of a text, and spread a dict out."""


def boxed(value: Any) -> NDArray[Any]:
    """One object, whatever it is, as an array without axes: its batch is an array of objects."""
    box = np.empty(1, object)  # with an axis, since an array would be spread over one without
    box[0] = value
    return box.reshape(())


def held(value: Any) -> NDArray[Any]:
    """The value as an array; a text, bytes or a dict as one object."""
    return boxed(value) if isinstance(value, FORMLESS) else np.asarray(value)


def objects_in(values: Any) -> NDArray[np.object_]:
    """An array of objects, one for each value."""
    column = np.empty(len(values), object)
    for number, value in enumerate(values):  # one by one: arrays of one shape would be spread out
        column[number] = value
    return column
