"""The images of one field on their way into shards: what they are, and what their members are called.

The profile that every reader of WebDataset shards accepts has the same members in every example, so all images of a
field have one extension, whatever their encodings are: readers look at the content.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamtrain.images.checking import checked
from streamtrain.images.facts import ImageFacts, ImageTally, parse_facts
from streamtrain.images.kinds import EXTENSIONS, MIXED

Form = tuple[str | None, tuple[int, ...] | None]


class FieldImages:
    """Counts images as they come, and adds up what others have counted.

    Args:
        name: of the field.
        member: the extension of all members, where a source or a data set has given it.
    """

    def __init__(self, name: str, member: str | None) -> None:
        self._name, self._given = name, member
        self._tally = ImageTally()
        self._added = ImageFacts()
        self._unseen: Form | None = None

    @property
    def member(self) -> str:
        """The extension of the members, once all are counted."""
        found = list((self._added if self._added.images else self._tally.facts).encodings)
        extension = found[0] if len(found) == 1 and found[0] in EXTENSIONS.values() else MIXED
        return self._given or f"{self._name}.{extension}"

    @property
    def facts(self) -> ImageFacts | None:
        """Of all images, once all are counted; ``None`` where some were never looked at."""
        return self._added if self._unseen is None else None

    @property
    def form(self) -> Form:
        """Type and shape of all, ``None`` each where they have not one, once all are counted."""
        dtype, shape = self._added.dtype, self._added.shape
        if self._unseen is not None:
            return (dtype if dtype == self._unseen[0] else None, shape if shape == self._unseen[1] else None)
        return dtype, shape

    @property
    def counted(self) -> dict[str, Any]:
        """The images since `begin`, as JSON's types."""
        return dataclasses.asdict(self._tally.facts)

    def begin(self) -> None:
        """Begins to count anew."""
        self._tally = ImageTally()

    def add(self, data: bytes) -> None:
        """Looks at one more image.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        self._tally.add(*checked(data))

    def absorb(self, counted: dict[str, Any]) -> None:
        """Takes in what another one of the same field has counted."""
        self._added += parse_facts(counted)

    def go_on(self, member: str, facts: ImageFacts | None, form: Form) -> None:
        """Begins with the images that a data set has already: their extension, and what is known of them."""
        self._given = member
        if facts is None:
            self._unseen = form
        else:
            self._added += facts
