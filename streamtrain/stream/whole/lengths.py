"""The length of every training example, for minibatches of neighbours in length: one look at a field of all of them.

Costs the reading of the field, and 8 bytes an example as long as the run lasts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, ShardError, complaint
from streamtrain.images.kinds import is_image
from streamtrain.job import Job
from streamtrain.shards import Field, Manifest
from streamtrain.stream.fetch.unpacked import data_folder
from streamtrain.stream.reader import Reader
from streamtrain.stream.whole.column import column_reader, field_of, form_in_words, pieces_of


def lengths_of_job(job: Job, name: str, place: str, manifest: Manifest) -> NDArray[np.int64]:
    """The length of every training example, by the field ``name``; ``place`` as messages name the data set.

    Raises:
        ConfigError, ShardError: as `lengths_of`; the data set is behind a URL.
    """
    setting = "data.by_length"
    field = field_of(setting, name, place, manifest)
    data = job.data
    bad = data.on_bad_example
    folder = data_folder(data.place)
    reader = column_reader(setting, name, place, folder, manifest, verify=data.verify, on_bad_example=bad)
    return lengths_of(setting, field, reader)


def _check_has_lengths(setting: str, field: Field) -> None:
    """Refuses a field whose examples have no lengths that differ.

    Raises:
        ConfigError: it is neither arrays of different lengths, nor texts, nor one whole number an example.
    """
    whole = field.shape == () and field.dtype is not None and np.dtype(field.dtype).kind in "iu"
    ragged = field.shape is None and field.dtype is not None and not is_image(field.member)
    if whole or ragged or field.member.rpartition(".")[2] == "txt":
        return
    expected = "arrays of different lengths, texts, or one whole number an example"
    do = "name the field that st.Pad pads, or one that holds its lengths"
    found = form_in_words(field)
    raise ConfigError(complaint(f"{setting}, field {field.name!r}", expected=expected, found=found, do=do))


def lengths_of(setting: str, field: Field, reader: Reader) -> NDArray[np.int64]:
    """Of every example of a split, in stored order; of one that is bad and skipped 0.

    An array has so many entries along its first axis, a text so many characters, a whole number is the length itself.

    Args:
        reader: of this field.

    Raises:
        ConfigError: see `_check_has_lengths`. ShardError: a shard is damaged, or an example has no axis.
    """
    _check_has_lengths(setting, field)
    lengths = np.zeros(len(reader), np.int64)
    for numbers, values in pieces_of(reader, field):
        if field.shape == ():
            lengths[numbers] = values
        else:
            found = zip(numbers.tolist(), values, strict=True)
            lengths[numbers] = [_length(reader, number, field, value) for number, value in found]
    return lengths


def _length(reader: Reader, number: int, field: Field, value: Any) -> int:
    if not isinstance(value, str) and np.ndim(value) == 0:
        where = f"{reader.where(number)}, field {field.name!r}"
        do = "pack it as an array of one entry"
        raise ShardError(complaint(where, expected="an array, whose length counts", found="a single number", do=do))
    return len(value)
