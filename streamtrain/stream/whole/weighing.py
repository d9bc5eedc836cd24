"""The weight of every training example, for `st.Balanced(weights=…)`: one look at that field of all of them.

Costs the reading of the field, and 16 bytes an example as long as the run lasts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Balanced, Job
from streamtrain.order import Parts, Weights
from streamtrain.shards import Manifest
from streamtrain.stream.fetch.unpacked import data_folder
from streamtrain.stream.whole.column import column_reader, field_of, form_in_words, pieces_of
from streamtrain.stream.whole.parting import parted_by_class

SETTING = "data.balance, weights"


def balanced_of_job(job: Job, balance: Balanced, place: str, manifest: Manifest) -> Parts | Weights:
    """How often training examples come, by class or by weights; ``place`` as messages name the data set.

    Raises:
        ConfigError, ShardError: as `weights_of` and `parted_by_class`.
    """
    folder = data_folder(job.data.place)
    verify = job.data.verify
    if balance.weights is not None:
        return weights_of(balance.weights, place, folder, manifest, job.seed, verify=verify)
    assert balance.field is not None
    return parted_by_class(balance.field, place, folder, manifest, verify=verify)


def weights_of(name: str, place: str, folder: Path | None, manifest: Manifest, seed: int, *, verify: bool) -> Weights:
    """How often each example of the training split comes, by the field ``name``.

    Args:
        place: the data set's, as messages name it.
        folder: where its shards can be mapped; ``None`` where they are behind a URL.
        seed: of the passes.
        verify: check every shard's checksum when it is first opened.

    Raises:
        ConfigError: no such field, one of something else than numbers, a weight that is none, or none above 0.
        ShardError: a shard is damaged.
    """
    field = field_of(SETTING, name, place, manifest)
    where = f"{SETTING}, field {name!r}"
    if field.dtype is None or field.shape != () or np.dtype(field.dtype).kind not in "iufb":
        do = "name a field of weights"
        raise ConfigError(complaint(where, expected="one number an example", found=form_in_words(field), do=do))
    reader = column_reader(SETTING, name, place, folder, manifest, verify=verify)
    weights = np.concatenate([values for _, values in pieces_of(reader, field)]).astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        first = int(wrong[0])
        expected, found = "weights that are finite and not below 0", f"{weights[first]:g} in {reader.where(first)}"
        do = f"correct it{f' and {wrong.size - 1:,} more' if wrong.size > 1 else ''}, and pack again"
        raise ConfigError(complaint(where, expected=expected, found=found, do=do))
    largest = weights.max()
    if not largest:
        do = "name another field, or leave data.balance out"
        raise ConfigError(complaint(where, expected="a weight above 0", found="only 0", do=do))
    return Weights(weights / largest, seed)
