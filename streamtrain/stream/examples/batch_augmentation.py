"""A user's random change of a lane's batch in training, on the device; random numbers follow from seed, step and lane.

So they depend on the lanes, as dropout's do, and on nothing else: not on workers, pieces or who goes together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamtrain.errors import JobError, complaint, users_code
from streamtrain.stream.examples.generators import kept_generators, seed_all

Batch = dict[str, torch.Tensor]
AugmentBatch = Callable[[Batch, torch.Generator], Batch]


def augment_batch(function: AugmentBatch, batch: Batch, seed: int, device: torch.device) -> Batch:
    """What the function gives for a lane's batch.

    Meanwhile the global generators are set from the seed too. The device's own stays so: a forward sets it before it
    draws.

    Raises:
        JobError: the function fails, or leaves another number of examples.
    """
    counts = {name: len(tensor) for name, tensor in batch.items()}
    generator = torch.Generator(device).manual_seed(seed)
    with kept_generators():
        seed_all(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        with users_code("data.augment_batch"):
            augmented = dict(function(batch, generator))
    for name, tensor in augmented.items():
        fits = {counts[name]} if name in counts else {*counts.values()}  # several: examples, and rows that they share
        if isinstance(tensor, torch.Tensor) and (tensor.dim() == 0 or len(tensor) not in fits):
            where, found = f"data.augment_batch, field {name!r}", f"shape {tuple(tensor.shape)}"
            do = "keep the examples along the first axis"
            expected = f"{' or '.join(map(str, sorted(fits)))} examples, as it was given"
            raise JobError(complaint(where, expected=expected, found=found, do=do))
    return augmented
