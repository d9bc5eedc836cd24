"""The images of one field on their way into shards: what they are, and what their members are called.

The profile that every reader of WebDataset shards accepts has the same members in every example, so all images of a
field have one extension, whatever their encodings are: readers look at the content.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from streamtrain.images.checking import checked
from streamtrain.images.facts import ImageFacts, facts_of, parse_facts
from streamtrain.images.kinds import EXTENSIONS, MIXED

Form = tuple[str | None, tuple[int, ...] | None]


@dataclass(frozen=True)
class FieldImages:
    """What is known of a field's images; a value, so that an example that is not taken after all leaves no trace.

    Attributes:
        name: of the field.
        given: the extension of all members, where a source or a data set has given it.
        counted: of the images that were added since `begun`.
        absorbed: of those that others have counted.
        unseen: type and shape of images that a data set has, where nobody has counted them.
    """

    name: str
    given: str | None = None
    counted: ImageFacts = field(default_factory=ImageFacts)
    absorbed: ImageFacts = field(default_factory=ImageFacts)
    unseen: Form | None = None

    @property
    def member(self) -> str:
        """The extension of the members, once all are counted."""
        found = list((self.absorbed if self.absorbed.images else self.counted).encodings)
        extension = found[0] if len(found) == 1 and found[0] in EXTENSIONS.values() else MIXED
        return self.given or f"{self.name}.{extension}"

    @property
    def facts(self) -> ImageFacts | None:
        """Of all images, once all are counted; ``None`` where some were never looked at."""
        return self.absorbed if self.unseen is None else None

    @property
    def form(self) -> Form:
        """Type and shape of all, ``None`` each where they have not one, once all are counted."""
        dtype = self.absorbed.dtype
        shape = self.absorbed.shape
        if self.unseen is not None:
            return (dtype if dtype == self.unseen[0] else None, shape if shape == self.unseen[1] else None)
        return dtype, shape

    @property
    def begun(self) -> FieldImages:
        """Counting anew."""
        return replace(self, counted=ImageFacts())

    def added(self, data: bytes) -> FieldImages:
        """With one more image, which is looked at.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        return replace(self, counted=self.counted + facts_of(*checked(data)))

    def joined(self, counted: dict[str, Any]) -> FieldImages:
        """With what another one of the same field has counted, as JSON's types."""
        return replace(self, absorbed=self.absorbed + parse_facts(counted))

    def after(self, member: str, facts: ImageFacts | None, form: Form) -> FieldImages:
        """Going on with the images that a data set has already: their extension, and what is known of them."""
        if facts is None:
            return replace(self, given=member, unseen=form)
        return replace(self, given=member, absorbed=self.absorbed + facts)
