"""Values of fields to members of a tar, and what a member holds.

integers, booleans       NAME.cls   decimal digits, zero-padded to one width over the data set; NAME.npy (int64)
                                    where any of them is negative
other numbers, arrays    NAME.npy   one dtype and shape over the data set
images, as files' bytes  NAME.jpg, .png, …   as they are; .png where several encodings mix: readers look inside
str, dict and list       NAME.txt, NAME.json
other bytes              NAME.bin

In a block fields of fixed size are NAME.npy, with the examples as first axis; the others as
`packing.shuffling.blocks` says.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import BadExample, SourceError, complaint, one_line
from streamtrain.images.field_images import FieldImages
from streamtrain.images.headers import begins_like_image
from streamtrain.images.kinds import MIXED, is_image
from streamtrain.shards.codec.given_values import FieldNotes, ImageFile, Raw, Seen
from streamtrain.shards.codec.member_form import Form, form_of, shown
from streamtrain.shards.codec.npy import npy_header, read_npy
from streamtrain.shards.codec.ragged import Ragged
from streamtrain.shards.manifest import Field


class FieldEncoder:
    """Encodes one field of every example, and holds all of them to the first one's form.

    Args:
        name: of the field; letters, digits, ``_`` and ``-``.
        classes: names of its values, where they stand for classes.
        notes: what else is known of it.

    Raises:
        SourceError: from ``encode``, naming the example and the field.
    """

    def __init__(self, name: str, classes: tuple[str, ...] | None = None, notes: FieldNotes | None = None) -> None:
        self._name = name
        self._classes = classes
        self._notes = notes or FieldNotes()
        self._member = ""
        self._form: Form | None = None
        self._header = b""
        self._taken_over = False
        self._images: FieldImages | None = None
        self.low: int | None = None
        self.high: int | None = None

    @property
    def member(self) -> str:
        """The extension of the field's members, once all are encoded."""
        if self._images is not None:
            return self._images.member
        return f"{self._name}.npy" if self.low is not None and self.low < 0 else self._member

    @property
    def counts(self) -> bool:
        """Whether the values are integers; then ``encode`` gives their decimal digits."""
        return self._member.rpartition(".")[2] == "cls"

    @property
    def taken_over(self) -> bool:
        """Whether members are taken over from other tars, byte by byte."""
        return self._taken_over

    @property
    def has_images(self) -> bool:
        """Whether the values are images' files, each of which is counted."""
        return self._images is not None

    @property
    def row_type(self) -> np.dtype[Any] | None:
        """The type of one example's value where all have one dtype and shape, little-endian; else ``None``."""
        if self.counts:
            return np.dtype("<i8")
        if self._form is None or self._form[1] is None or self._member.rpartition(".")[2] != "npy":
            return None
        dtype, shape = self._form
        return np.dtype((np.dtype(dtype).newbyteorder("<"), shape))

    def field(self, *, in_blocks: bool) -> Field:
        """The field's entry in the manifest, once all are encoded."""
        member = f"{self._name}.npy" if in_blocks and self.row_type is not None else self.member
        dtype, shape = self._form or (None, None)
        columns = self._notes.columns
        unit = self._notes.unit
        if self._images is not None:
            return Field(self._name, member, *self._images.form, images=self._images.facts)
        return Field(self._name, member, dtype, shape, self.low, self.high, self._classes, columns, unit)

    @property
    def seen(self) -> Seen:
        """What `absorb` needs to know of the examples that this encoder has encoded, since `begin` where it counts."""
        varies = self._form is not None and self._form[1] is None
        images = None if self._images is None else dataclasses.asdict(self._images.counted)
        return {"low": self.low, "high": self.high, "varies": varies, "images": images}

    def begin(self) -> None:
        """Begins to count anew."""
        if self._images is not None:
            self._images = self._images.begun

    def absorb(self, seen: Seen) -> None:
        """Takes in what another encoder of the same field, which began as a copy of this one, has seen."""
        if seen["low"] is not None and seen["high"] is not None:
            self.low = seen["low"] if self.low is None else min(self.low, seen["low"])
            self.high = seen["high"] if self.high is None else max(self.high, seen["high"])
        if seen["varies"] and self._form is not None:
            self._form = (self._form[0], None)
        if seen["images"] is not None and self._images is not None:
            self._images = self._images.joined(seen["images"])

    def continue_images(self, field: Field) -> None:
        """Goes on with the images of a field that a data set has already."""
        if self._images is not None:
            self._images = self._images.after(field.member, field.images, (field.dtype, field.shape))

    def finish(self, data: bytes) -> bytes:
        """What ``encode`` gave, as it is stored once all are encoded: integers all in the same number of bytes."""
        if not self.counts or self.low is None:
            return data
        if self.low < 0:
            return npy_header(np.empty((), "<i8")) + int(data).to_bytes(8, "little", signed=True)
        return data.rjust(len(str(self.high)), b"0")

    def encode(self, value: Any, where: str) -> bytes:
        """The member's content, up to ``finish``; ``where`` names the example in errors."""
        if isinstance(value, SourceError):
            raise value
        if isinstance(value, ImageFile | Raw):
            self._taken_over |= isinstance(value, Raw) and not value.extension.endswith(".cls")
            return self._raw(value, where)
        if self._notes.wide:
            return self._array(np.asarray(value), where)
        if isinstance(value, bool | int | np.integer | np.bool_):
            self._same_member(f"{self._name}.cls", where)
            return self._number(int(value), where)
        if isinstance(value, np.str_ | np.bytes_):
            value = value.item()
        if isinstance(value, np.ndarray | np.generic | int | float):
            return self._array(np.asarray(value), where)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(bytes(value), where)
        if isinstance(value, str):
            return self._raw(Raw(f"{self._name}.txt", value.encode()), where)
        if isinstance(value, dict | list):
            return self._raw(Raw(f"{self._name}.json", self._json(value, where)), where)
        raise self._wrong(where, "numbers, array, bytes, str, dict or list", type(value).__name__, "convert it first")

    def row(self, value: Any, where: str) -> NDArray[Any]:
        """The same as an array of ``row_type``, for fields that have one."""
        encoded = self.encode(value, where)
        if self.counts:
            return np.array(int(encoded), "<i8")
        found = read_npy(encoded)
        return found.astype(found.dtype.newbyteorder("<"), order="C", copy=False)

    def column(self, values: NDArray[Any] | Ragged | list[Any], where: Callable[[int], str]) -> NDArray[Any] | Ragged:
        """Many examples' values at once, first axis the example: an array of ``row_type``, or their encoded members.

        Raises:
            SourceError: as from ``encode``, naming the first example that is not as it must be.
        """
        if isinstance(values, Ragged) and values.what == "array" and self._notes.varies:
            return self._arrays(values, where)
        if isinstance(values, Ragged) and (values.what == "text" or self._member == f"{self._name}.bin"):
            self.encode(values[0], where(0))  # one is as good as another, and a member as it is
            return values
        if not isinstance(values, np.ndarray):
            return Ragged.of_bytes([self.encode(value, where(number)) for number, value in enumerate(values)])
        if values.dtype.kind in "iub" and values.ndim == 1 and not self._notes.wide:
            self._same_member(f"{self._name}.cls", where(0))
            for at in (int(values.argmin()), int(values.argmax())):
                self._number(int(values[at]), where(at))
            return values.astype("<i8", copy=False)
        bad = 0
        if values.dtype.kind in "fc" and not self._notes.missing:
            finite = np.isfinite(values).reshape(len(values), -1)
            bad = 0 if finite.all() else int(np.argmin(finite.all(axis=1)))
        self._array(values[bad], where(bad))
        return values.astype(values.dtype.newbyteorder("<"), order="C", copy=False)

    def member_bytes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Bytes of the member of each of many values of ``row_type``, up to ``finish``."""
        if not self.counts:
            return np.full(len(values), len(self._header) + values[:1].nbytes, np.int64)
        negative = values < 0
        size = np.where(negative, -(values + 1), values).astype(np.uint64) + negative
        powers = 10 ** np.arange(1, 19, dtype=np.uint64)
        return np.searchsorted(powers, size, side="right") + 1 + negative

    def stored(self, row: NDArray[Any]) -> bytes:
        """A value of ``row_type`` as the content of its member."""
        return self.finish(b"%d" % row.item()) if self.counts else self._header + row.tobytes()

    def _arrays(self, values: Ragged, where: Callable[[int], str]) -> Ragged:
        """Arrays of one axis, each behind the header for its length."""
        bad = 0
        if values.content.dtype.kind in "fc" and not self._notes.missing:
            bad = int(np.argmax(values.rows_of(~np.isfinite(values.content))))
        self._array(values[bad], where(bad))
        content = values.content.astype(values.content.dtype.newbyteorder("<"), copy=False)
        lengths, which = np.unique(values.lengths, return_inverse=True)
        heads = [npy_header(np.broadcast_to(content.dtype.type(0), (length,))) for length in lengths.tolist()]
        return Ragged(content, values.lengths).joined_to(heads, which)

    def _bytes(self, data: bytes, where: str) -> bytes:
        image = self._images is not None or (not self._member and begins_like_image(data))
        return self._raw(ImageFile(data) if image else Raw(f"{self._name}.bin", data), where)

    def _image(self, member: str, data: bytes, where: str, *, named: bool) -> bytes:
        """An image of any encoding; where it is ``named``, members keep this extension, whatever they hold."""
        self._same_member(member, where)
        images = self._images or FieldImages(self._name, member if named else None)
        self._taken_over = self._taken_over or named
        try:
            self._images = images.added(data)
        except (OSError, ValueError) as error:
            raise BadExample(f"{where}, field {self._name!r}", "a readable image", one_line(error)) from None
        return data

    def _raw(self, raw: ImageFile | Raw, where: str) -> bytes:
        if isinstance(raw, ImageFile):
            return self._image(f"{self._name}.{MIXED}", raw.data, where, named=False)
        if is_image(raw.extension):
            return self._image(raw.extension, raw.data, where, named=True)
        self._same_member(raw.extension, where)
        kind = raw.extension.rpartition(".")[2]
        if kind == "cls":
            text = raw.data.strip()
            if not text.isdigit() or len(text) > 4000:
                do = "write its number as decimal digits"
                raise self._wrong(where, "a whole number of at least 0", repr(text[:20]), do)
            return self._number(int(text), where)
        try:
            form = form_of(raw.extension, raw.data)
        except (OSError, ValueError) as error:
            raise self._wrong(where, f"a readable .{kind}", one_line(error), "repair or remove it") from None
        if self._form is None:
            self._form = form
        elif self._form != form:
            if kind == "npy":
                raise self._wrong(where, shown(self._form), shown(form), "bring all to one dtype and shape")
            self._form = (form[0], None)
        return raw.data

    def _number(self, number: int, where: str) -> bytes:
        if not -(1 << 63) <= number < 1 << 63:
            raise self._wrong(where, "a whole number of 64 bits with sign", str(number), "convert it in the source")
        self.low = number if self.low is None else min(self.low, number)
        self.high = number if self.high is None else max(self.high, number)
        self._form = ("int64", ())
        return b"%d" % number

    def _array(self, array: np.ndarray[Any, Any], where: str) -> bytes:
        self._same_member(f"{self._name}.npy", where)
        if array.dtype.hasobject or array.dtype.kind not in "biufc":
            raise self._wrong(where, "numbers", f"dtype {array.dtype}", "convert it in the source")
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        form: Form = (array.dtype.name, None if self._notes.varies else array.shape)
        if self._form is None or self._notes.varies:
            self._form = self._form or form
            self._header = npy_header(array)
        if form != self._form:
            raise self._wrong(where, shown(self._form), shown(form), "bring all examples to one dtype and shape")
        if array.dtype.kind in "fc" and not self._notes.missing and not np.isfinite(array).all():
            raise self._wrong(where, "finite numbers", "NaN or infinity", "fill in numbers, or remove the example")
        return self._header + array.tobytes()

    def _json(self, value: object, where: str) -> bytes:
        try:
            return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise self._wrong(where, "what JSON can hold", one_line(error), "convert it in the source") from None

    def _same_member(self, member: str, where: str) -> None:
        if not self._member:
            if not re.fullmatch("[a-z0-9_.-]{1,64}", member):
                expected = "an extension of at most 64 of a-z, 0-9, _, - and dots"
                raise self._wrong(where, expected, repr(member), "rename it")
            self._member = member
        if member != self._member:
            raise self._wrong(where, f"a .{self._member} as in the first example", f".{member}", "use one kind")

    def _wrong(self, where: str, expected: str, found: str, do: str) -> SourceError:
        return SourceError(complaint(f"{where}, field {self._name!r}", expected=expected, found=found, do=do))
