"""Promises 1 to 3 over real files, for any sizes of data, shards, lanes and batches: each example once, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamtrain.order import Order
from streamtrain.packing import PackOptions, pack
from streamtrain.shards import read_manifest, stored_order
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader
from streamtrain.values import Position


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    examples=st.integers(3, 120),
    seed=st.integers(0, 1000),
    shard_examples=st.integers(1, 50),
    lanes=st.integers(1, 5),
    per_lane=st.integers(1, 9),
    fixed=st.booleans(),
)
def test_promises_1_to_3_every_example_once_bit_for_bit(
    examples: int,
    seed: int,
    shard_examples: int,
    lanes: int,
    per_lane: int,
    fixed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder: Path = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(seed)
    raw = generator.normal(size=(examples, 3)).astype(np.float32)
    tags = np.arange(examples) if fixed else -1 - np.arange(examples)  # negative numbers are stored as arrays
    np.savez(folder / "raw.npz", x=raw, tag=tags)
    options = PackOptions(splits=(0.7, 0.3, 0.0), seed=seed, shard_examples=shard_examples)
    manifest = pack(str(folder / "raw.npz"), folder / "packed", options)
    assert manifest == read_manifest(folder / "packed")

    order = stored_order(seed, examples)
    train = manifest.splits["train"].examples
    reader = Reader(LocalFiles(folder / "packed"), manifest, "train", ("x", "tag"))
    minibatches = Order(train, lanes, lanes * per_lane)
    used: list[int] = []
    for step in range(minibatches.steps):
        for part in minibatches.minibatch(Position(0, step)).parts:
            if part.examples:
                arrays = reader.read(part.start, part.stop)
                source = order[part.start : part.stop]
                np.testing.assert_array_equal(arrays["x"], raw[source])
                np.testing.assert_array_equal(arrays["tag"], tags[source])
                used += source.tolist()
    assert len(used) == train and set(used) == set(order[:train].tolist())
    held_out = Reader(LocalFiles(folder / "packed"), manifest, "validation", ("tag",)).read(0, examples - train)["tag"]
    assert not set(tags[used].tolist()) & set(held_out.tolist())
