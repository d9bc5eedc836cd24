"""Examples decoded one by one into a batch, spread over threads; bad ones stop the reading or are passed over.

An example is bad where a member cannot be decoded, or the user's function refuses it. Which ones are is a function
of the data alone, so a replay passes over the same. Examples of different forms are not bad: which of them would be
passed over would depend on which comes first, so a batch of several forms is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ShardError, StreamtrainError, complaint, one_line, users_code
from streamtrain.images.conversion import ImageForm
from streamtrain.images.kinds import WHITE, Color, Mode, advised_mode, is_image, kind_of
from streamtrain.images.pixels import Size
from streamtrain.job import Collate
from streamtrain.stream.examples.augmenting import PassAugmentation
from streamtrain.stream.examples.boxes import boxed, held
from streamtrain.stream.examples.collating import Example, collator_of
from streamtrain.stream.examples.decode import Decoder
from streamtrain.stream.examples.generators import kept_generators
from streamtrain.values import Arrays, Skip

Map = Callable[[dict[str, Any]], Mapping[str, Any]]
APART = ""
"""The only field of examples that are not collated yet: a column of them."""


@dataclass(frozen=True)
class Decoding:
    """How examples become arrays.

    Attributes:
        map: function from one decoded example to a dict of arrays or numbers of one form over all examples.
        image_size: height and width that images are brought to.
        threads: that decode.
        on_bad_example: stop with its key, or skip it.
        image_mode: the kind that images are brought to.
        image_background: the colour on which alpha is laid where the mode has none.
        collate: how examples of different shapes become a batch.
    """

    map: Map | None = None
    image_size: Size | None = None
    threads: int = 1
    on_bad_example: Literal["stop", "skip"] = "stop"
    image_mode: Mode = "stored"
    image_background: Color = WHITE
    collate: Collate | None = None

    @property
    def image_form(self) -> ImageForm:
        """What images are brought to."""
        return ImageForm(self.image_size, self.image_mode, self.image_background)


@dataclass(frozen=True)
class Member:
    """One member to decode; ``varies`` where arrays have different shapes, so that each is an object of its batch."""

    data: NDArray[np.uint8]
    decode: Decoder
    extension: str
    varies: bool = False


@dataclass(frozen=True)
class Row:
    """One example before decoding: values that need none, members, its place for errors, and its stored number."""

    values: dict[str, Any]
    members: dict[str, Member]
    where: str
    number: int


@dataclass(frozen=True)
class Form:
    """Shape and type of every field of one example, and the example that has them."""

    where: str
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class OtherForm(ShardError):
    """An example whose fields are not of the form of its batch."""


class Assembler:
    """Makes batches out of rows; see the module."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._form: Form | None = None
        self._augmentation: PassAugmentation | None = None
        self._collator = collator_of(decoding.collate)
        self._pool = ThreadPoolExecutor(decoding.threads, "decode") if decoding.threads > 1 else None

    def batch(
        self, rows: Sequence[Row], augmentation: PassAugmentation | None = None
    ) -> tuple[Arrays, dict[int, Skip]]:
        """All good examples, first axis the example, in the order of ``rows``; and the others by their place there.

        Where they are to be collated, they are not yet: see `collated`.

        Args:
            augmentation: changes them last; none where they are to be as they are.

        Raises:
            ShardError: a bad example, unless they are to be skipped. JobError: the same, of the user's function.
        """
        self._augmentation = augmentation
        with kept_generators() if augmentation is not None else contextlib.nullcontext():
            try:
                arrays, bad = self._all(rows, self._form) if self._collator is None else self._apart(rows)
            except OtherForm:  # allowed between batches, as images of a batch's own size are
                arrays, bad = self._all(rows, None)
        if len(bad) == len(rows):
            return {}, bad
        if bad:
            good = [number for number in range(len(rows)) if number not in bad]
            arrays = {name: array[good] for name, array in arrays.items()}
        return arrays, bad

    def collated(self, arrays: Arrays) -> Arrays:
        """What several calls of `batch` gave for examples that go together, joined, as one batch.

        Raises:
            StreamtrainError: they do not go together, or the user's function fails.
        """
        if self._collator is None or not arrays:
            return arrays
        return self._collator.batch(arrays[APART].tolist())

    def _all(self, rows: Sequence[Row], form: Form | None) -> tuple[Arrays, dict[int, Skip]]:
        """Every row in its place, in arrays of the last batch's form, or of this batch's first good example's."""
        arrays: Arrays = {}
        bad: dict[int, Skip] = {}
        done = 0
        if form is None:
            done = self._first(rows, arrays, bad) + 1
            if done > len(rows):
                return {}, bad
            shapes = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
            self._form = Form(rows[done - 1].where, shapes)
        else:
            arrays = {name: np.empty((len(rows), *shape), dtype) for name, (shape, dtype) in form.shapes.items()}
        self._spread(lambda left: self._fill(rows, left, arrays, bad), range(done, len(rows)))
        return arrays, bad

    def _apart(self, rows: Sequence[Row]) -> tuple[Arrays, dict[int, Skip]]:
        """Every row in its place, as a column of examples by themselves: their shapes may differ."""
        assert self._collator is not None
        prepare = self._collator.prepare
        column = np.empty(len(rows), object)
        bad: dict[int, Skip] = {}

        def fill(left: Iterator[int]) -> None:
            for number in left:
                row = rows[number]
                try:
                    column[number] = prepare(Example(row.where, self._made(row, {})))
                except StreamtrainError as error:
                    bad[number] = self._skip(row, error)

        self._spread(fill, range(len(rows)))
        return {APART: column}, bad

    def _spread(self, fill: Callable[[Iterator[int]], None], numbers: range) -> None:
        """Has some rows filled in by all threads."""
        left = iter(numbers)  # each thread takes the next, so that none waits for a slow one
        if self._pool is None:
            fill(left)
            return
        filling = [self._pool.submit(fill, left) for _ in range(self._decoding.threads)]
        wait(filling)
        for filled in filling:
            filled.result()

    def _first(self, rows: Sequence[Row], arrays: Arrays, bad: dict[int, Skip]) -> int:
        """Decodes up to the first good example, whose form is that of the batch; how many came before it."""
        for number, row in enumerate(rows):
            try:
                values = self._values(row, {})
                room = {name: _room(v, len(rows), f"{row.where}, field {name!r}") for name, v in values.items()}
            except StreamtrainError as error:
                bad[number] = self._skip(row, error)
                continue
            arrays.update(room)
            for name, value in values.items():
                arrays[name][number] = value if arrays[name].dtype.kind != "O" else value[()]
            return number
        return len(rows)

    def _fill(self, rows: Sequence[Row], numbers: Iterator[int], arrays: Arrays, bad: dict[int, Skip]) -> None:
        assert self._form is not None
        for number in numbers:
            row = rows[number]
            slots = {name: array[number] for name, array in arrays.items()}
            try:
                values = self._values(row, slots)
                self._check_form(row, values, slots)
            except OtherForm:
                raise
            except StreamtrainError as error:
                bad[number] = self._skip(row, error)
                continue
            for name, value in values.items():
                if not np.may_share_memory(value, slots[name]):
                    arrays[name][number] = value if arrays[name].dtype.kind != "O" else value[()]

    def _values(self, row: Row, slots: Arrays) -> dict[str, NDArray[Any]]:
        """One example's fields as arrays."""
        values = self._made(row, slots)
        if not self._keeps_fields:
            return {name: held(value) for name, value in values.items()}
        objects = {name for name, member in row.members.items() if member.varies or isinstance(values[name], list)}
        return {name: boxed(value) if name in objects else held(value) for name, value in values.items()}

    def _made(self, row: Row, slots: Arrays) -> dict[str, Any]:
        """One example, decoded, mapped and augmented; images into ``slots`` where nothing else looks at them."""
        values = dict(row.values)
        into: dict[str, Any] = dict(slots) if self._keeps_fields else {}
        for name, member in row.members.items():
            try:
                values[name] = member.decode(member.data, into.get(name))
            except Exception as error:
                place = f"{row.where}, field {name!r}"
                expected = f"a readable .{member.extension}"
                do = "mend it, or set data.on_bad_example to skip"
                raise ShardError(complaint(place, expected=expected, found=one_line(error), do=do)) from None
        if self._decoding.map is not None:
            values = _mapped(self._decoding.map, values, row.where)
        if self._augmentation is not None:
            values = self._augmentation.augmented(values, row.number, row.where)
        return values

    @property
    def _keeps_fields(self) -> bool:
        """Whether the fields of the batch are those that are stored: no function of the user's has changed them."""
        return self._decoding.map is None and self._augmentation is None

    def _check_form(self, row: Row, values: Mapping[str, NDArray[Any]], slots: Arrays) -> None:
        """Raises `OtherForm` where an example's fields are not those of its batch, or not of their form."""
        assert self._form is not None
        if values.keys() != slots.keys():
            expected, found = ", ".join(slots), ", ".join(values)
            do = f"return the same ones from {self._users_function}"
            raise OtherForm(complaint(row.where, expected=f"the fields {expected}", found=found, do=do))
        for name, value in values.items():
            slot: Any = slots[name]
            if not isinstance(slot, np.ndarray | np.generic):  # an object: one of no form
                continue
            if value.shape != slot.shape or value.dtype != slot.dtype:
                same_type = value.dtype == slot.dtype
                expected = f"shape {slot.shape}" if same_type else f"{slot.dtype} of shape {slot.shape}"
                found = f"{value.shape}" if same_type else f"{value.dtype} of shape {value.shape}"
                expected, do = (
                    f"{expected} as in {self._form.where}",
                    self._to_one_form(row, name, value, np.asarray(slot)),
                )
                raise OtherForm(complaint(f"{row.where}, field {name!r}", expected=expected, found=found, do=do))

    def _to_one_form(self, row: Row, name: str, value: NDArray[Any], slot: NDArray[Any]) -> str:
        """What brings two values of a field to one form."""
        if self._augmentation is not None:
            return f"return one form from {self._users_function}, or set data.collate"
        if self._decoding.map is not None or name not in row.members or not is_image(row.members[name].extension):
            return "bring all to one shape: in data.map, or before packing; or set data.collate, as st.Pad"
        kinds = {kind_of(value).name, kind_of(slot).name}
        if len(kinds) > 1:
            return advised_mode(sorted(kinds), "data.image_mode")
        return "set data.image_size, or pack with --image-size"

    @property
    def _users_function(self) -> str:
        """The last that has changed the examples."""
        return "data.map" if self._augmentation is None else "data.augment"

    def _skip(self, row: Row, error: StreamtrainError) -> Skip:
        if self._decoding.on_bad_example == "stop":
            raise error
        return Skip(row.where, str(error))


def _room(value: NDArray[Any], rows: int, where: str) -> NDArray[Any]:
    """An array for so many values of this form.

    Raises:
        ShardError: there is no memory for so many.
    """
    try:  # texts, bytes and dicts have no form to share
        return np.empty((rows, *value.shape), value.dtype if value.dtype.kind in "biufc" else object)
    except MemoryError:
        expected, found = f"{rows} of them to fit in memory", f"{rows * value.nbytes:,} bytes of shape {value.shape}"
        do = "set data.image_size, lower batch_size, or set data.on_bad_example to skip"
        raise ShardError(complaint(where, expected=expected, found=found, do=do)) from None


def _mapped(function: Map, values: dict[str, Any], where: str) -> dict[str, Any]:
    with users_code(f"{where}: data.map", "mend it, or set data.on_bad_example to skip"):
        return dict(function(values))
