"""Data sets in other processes: pickled, and read by a `DataLoader`'s workers, however these are started."""

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import streamtrain as st
from streamtrain.order import Reshuffle
from streamtrain.stream.loops.batches import Batches
from streamtrain.stream.loops.opened import Examples
from streamtrain.values import Position
from tests.support.datasets import pack_digits
from tests.support.servers import needs_nginx, nginx

EXAMPLES, SECONDS = 97, 60
METHODS = ("fork", "spawn", "forkserver")
LATER = Position(2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "a"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0), shard_examples=16), examples=EXAMPLES)
    return folder


def doubled(example: dict[str, Any]) -> dict[str, Any]:
    return {"image": example["image"].astype(np.float32) * 2, "label": example["label"]}


def opened(url: str | Path, kind: str) -> Examples:
    """Plain, decoded by threads, or with a function of the user's."""
    return st.open(url, decode_threads=4, map=doubled) if kind == "mapped" else st.open(url, decode_threads=4)


def read_before(examples: Examples) -> None:
    """The parent has files mapped and threads running before it starts workers."""
    assert len(examples[0:40]["image"]) == 40
    list(examples.batches(10, ahead=2))


@pytest.fixture(params=[False, True], ids=["at once", "after reading"])
def reads_first(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("method", METHODS)
def test_samples_by_workers_of_a_loader(folder: Path, method: str, reads_first: bool) -> None:
    examples = opened(folder, "plain")
    if reads_first:
        read_before(examples)
    loader = DataLoader(
        examples.samples(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=SECONDS
    )
    alone = {sample["__key__"]: sample["image.npy"] for sample in examples.samples()}
    for _ in range(2):
        samples = list(loader)
        assert len(samples) == EXAMPLES
        assert {sample["__key__"]: sample["image.npy"] for sample in samples} == alone


@pytest.mark.parametrize("kind", ["plain", "mapped"])
@pytest.mark.parametrize("method", METHODS)
def test_examples_by_workers_of_a_loader(folder: Path, kind: str, method: str, reads_first: bool) -> None:
    """By number, as PyTorch's own data sets are: its samplers choose, its workers read."""
    examples = opened(folder, kind)
    if reads_first:
        read_before(examples)
    loader = DataLoader(examples, batch_size=10, num_workers=2, multiprocessing_context=method, timeout=SECONDS)
    batches, expected = list(loader), examples[0:EXAMPLES]
    for name in expected:
        assert np.array_equal(torch.cat([batch[name] for batch in batches]).numpy(), expected[name])


@pytest.mark.parametrize("method", METHODS)
def test_batches_keep_to_one_process_and_say_so(folder: Path, method: str) -> None:
    """A loader's workers would each give every minibatch, and the position would move in none of ours."""
    batches = st.open(folder).batches(10)
    loader = DataLoader(batches, batch_size=None, num_workers=1, multiprocessing_context=method, timeout=SECONDS)
    with pytest.raises(st.ConfigError, match=r"DataLoader: expected no workers, found some; set num_workers=0"):
        list(loader)


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
@pytest.mark.parametrize("lane", [None, 1])
def test_pickled_batches_go_on_from_their_position(folder: Path, reshuffle: Reshuffle, lane: int | None) -> None:
    batches = opened(folder, "mapped").batches(12, lanes=3, lane=lane, reshuffle=reshuffle, seed=5, ahead=1)
    list(batches)
    batches.seek(LATER)
    copy = pickle.loads(pickle.dumps(batches))
    assert copy.position == LATER and copy.state_dict() == batches.state_dict()
    for one, other in zip(batches, copy, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    again = pickle.loads(pickle.dumps(copy))
    assert again.position == batches.position == Position(3, 0)


def send(batches: Batches, found: Any) -> None:
    """Everything from where the batches are, to the end of their pass."""
    found.put([batch["image"].numpy().copy() for batch in batches])


@pytest.mark.parametrize("method", METHODS)
def test_batches_sent_to_another_process(folder: Path, method: str) -> None:
    """As `torch.multiprocessing.spawn` sends what its processes shall train on."""
    batches = st.open(folder).batches(12, lanes=3, lane=1, ahead=2)
    expected = [batch["image"].numpy() for batch in batches]
    batches.seek(Position(0, 2))
    context = multiprocessing.get_context(method)
    found = context.Queue()
    process = context.Process(target=send, args=(batches, found), daemon=True)
    process.start()
    try:
        images = found.get(timeout=SECONDS)
    finally:
        process.kill()
        process.join()
    assert len(images) == len(expected) - 2
    assert all(np.array_equal(one, other) for one, other in zip(images, expected[2:], strict=True))


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[str]:
    with nginx(folder, tmp_path / "nginx") as url:
        yield url


@needs_nginx
@pytest.mark.parametrize("method", METHODS)
def test_a_data_set_behind_a_url_by_workers_of_a_loader(
    server: str, tmp_path: Path, method: str, reads_first: bool
) -> None:
    """The parent's connections, threads and pins in the cache stay its own."""
    examples = st.open(server, cache=tmp_path / "cache", decode_threads=2)
    if reads_first:
        read_before(examples)
    loader = DataLoader(examples.samples(), None, num_workers=2, multiprocessing_context=method, timeout=SECONDS)
    assert len({sample["__key__"] for sample in loader}) == EXAMPLES
    assert len(examples[0:EXAMPLES]["image"]) == EXAMPLES, "the parent reads on"
