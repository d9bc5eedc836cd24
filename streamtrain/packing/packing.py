"""`pack`: a source to a data set, shuffled once and uniformly, out of core.

It appears whole or not at all, and after a kill the same command goes on where it was. The same seed and input give
the same bytes, whatever the memory and the number of tasks. How it is made stands in `making`.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from streamtrain.errors import ConfigError, complaint
from streamtrain.packing import append as growing
from streamtrain.packing.making import DatasetMaker
from streamtrain.packing.options import PackOptions
from streamtrain.packing.shuffling.phases import Here, Phases, Progress, Spread
from streamtrain.packing.shuffling.runs import bad_examples
from streamtrain.packing.shuffling.scratch import check_new, command_digest, scratch_folder
from streamtrain.packing.sources import open_source
from streamtrain.packing.sources.sized_images import with_sized_images
from streamtrain.packing.tokens import in_token_rows, texts_to_tokenize
from streamtrain.shards.manifest import Manifest


def pack(
    source: str | Path,
    dest: str | Path,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Manifest:
    """Makes the data set ``dest`` out of ``source``; it appears whole or not at all.

    Plain WebDataset reads what it writes. Small examples of fixed size are in blocks, which are unbatched so::

        blocks = wds.WebDataset(files, shardshuffle=False).decode().to_tuple("image.npy", "label.npy")
        examples = (example for columns in blocks for example in zip(*columns))

    Args:
        source: see `streamtrain.packing.sources`.
        dest: a folder that is new or empty.
        spread: who does the parts; by default this process, for any number of tasks (`run.fleet.cluster.pack_tasks`).

    Returns:
        The data set's manifest.

    Raises:
        ConfigError: an option, or the destination. SourceError: the source, or an example in it.
        StoreError: the disk.
    """
    options = options or PackOptions()
    if options.fractions[0] <= 0:
        do = "set e.g. --splits 0.8 0.1 0.1 (--append adds to a data set)"
        expected, found = "three fractions that sum to 1, the first above 0", f"{options.fractions[0]:g} first"
        raise ConfigError(complaint("splits", expected=expected, found=found, do=do))
    check_new(Path(dest))
    return _make(str(source), Path(dest), options, None, progress, spread)


def append(
    source: str | Path,
    dest: str | Path,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Manifest:
    """Adds ``source`` to the data set ``dest`` as one more segment; it is there wholly or not at all.

    The data set says whether there are blocks, and of what size. Its keys, and every split's shards, are numbered
    on. Where an earlier segment had the same seed, the next one is taken that none had.

    Args, and Raises: as of `pack`, and ManifestError: there is no data set, or it is damaged.
    """
    options = options or PackOptions()
    before = growing.opened(Path(dest))
    taken = {segment.seed for segment in before.segments}
    seed = next(seed for seed in itertools.count(options.seed) if seed not in taken)
    return _make(str(source), Path(dest), dataclasses.replace(options, seed=seed), before, progress, spread)


def _make(
    source: str,
    dest: Path,
    options: PackOptions,
    before: Manifest | None,
    progress: Progress | None,
    spread: Spread | None,
) -> Manifest:
    label = options.label or (before.label if before else None)
    named = () if options.split_column is None else (options.split_column,)  # it becomes no field
    columns = tuple(name for name in options.columns if name not in named)
    wanted = dataclasses.replace(options, label=label, columns=columns, drop=(*options.drop, *named))
    opened = with_sized_images(open_source(source, wanted, None if options.tokens else before), options)
    texts = texts_to_tokenize(opened, options, before)
    opened = opened if texts is None else texts.source
    if before is not None:
        opened = growing.continued(opened, before, dest)
    spread = spread or Here()
    options = dataclasses.replace(options, tasks=options.tasks or spread.tasks(opened.bytes))
    refused = dest.with_name(f"{dest.name}.bad_examples.jsonl")
    try:
        with scratch_folder(dest, command_digest(opened, options, before)) as folder:
            phases = Phases(spread, options.tasks or 1, options.memory_bytes, progress or (lambda *_: None))
            if texts is not None:
                opened, options = in_token_rows(texts, options, folder, phases)
            manifest = DatasetMaker(opened, options, before, folder, phases).make(dest)
            growing.publish(folder / "data", dest, manifest, before)
    except bad_examples.RefusedExamples as error:
        raise error.with_list(refused) from None
    refused.unlink(missing_ok=True)  # of the same command, before they were repaired
    return manifest
