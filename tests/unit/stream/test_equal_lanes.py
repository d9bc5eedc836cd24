"""Lanes of a plain loop give the same number of minibatches, so processes that wait for each other all end."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs

import streamtrain as st
from streamtrain.order import lane as lane_of
from streamtrain.values import Position

RANKS = 2
SECONDS = 120

Numbers = list[list[int]]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A data set of so many examples, each of which holds its own number."""
    root = tmp_path_factory.mktemp("sizes")

    @cache
    def pack(examples: int) -> Path:
        numbers = np.arange(examples, dtype=np.float32)
        np.savez(root / f"{examples}.npz", x=np.stack([numbers, -numbers], 1), label=np.zeros(examples, np.int64))
        st.pack(str(root / f"{examples}.npz"), root / str(examples), st.PackOptions(splits=(1.0, 0.0, 0.0), seed=1))
        return root / str(examples)

    return pack


def refuse(bad: frozenset[int], example: dict[str, Any]) -> dict[str, Any]:
    if int(example["x"][0]) in bad:
        raise ValueError("bad")
    return {"x": example["x"], "label": example["label"], "name": str(int(example["x"][0]))}


def expected(stored: list[int], bad: frozenset[int], per_lane: int, lanes: int, lane: int, steps: int) -> Numbers:
    """The obvious: the lane's examples, cut into parts, without the bad ones."""
    place = lane_of(len(stored), lanes, lane)
    mine = stored[place.start : place.stop]
    parts = [mine[step * per_lane : (step + 1) * per_lane] for step in range(steps)]
    return [[number for number in part if number not in bad] for part in parts]


@settings(max_examples=150)
@given(data=hs.data())
def test_all_lanes_give_as_many_minibatches_as_len_says(packed: Callable[[int], Path], data: hs.DataObject) -> None:
    size = data.draw(hs.sampled_from([1, 2, 3, 5, 8, 13, 65, 129]), "examples")
    lanes, per_lane = data.draw(hs.integers(1, 6), "lanes"), data.draw(hs.sampled_from([1, 2, 3, 8, 40]), "of a lane")
    drop_last, ahead = data.draw(hs.booleans(), "drop_last"), data.draw(hs.sampled_from([0, 2]), "ahead")
    worst = data.draw(hs.sets(hs.integers(0, size - 1), max_size=max(0, size - 1)), "bad")
    bad = frozenset(worst) if data.draw(hs.booleans(), "skip") else frozenset()
    plain = st.open(packed(size))
    stored = [int(number) for number in plain[0:size]["x"][:, 0]]
    examples = st.open(packed(size), map=partial(refuse, bad), on_bad_example="skip") if bad else plain
    steps = size // (lanes * per_lane) if drop_last else -(-lane_of(size, lanes, 0).stop // per_lane)
    if not steps:
        with pytest.raises(st.ConfigError, match="at least one full minibatch"):
            examples.batches(lanes * per_lane, lanes=lanes, lane=0, drop_last=drop_last)
        return
    for lane in range(lanes):
        batches = examples.batches(lanes * per_lane, lanes=lanes, lane=lane, drop_last=drop_last, ahead=ahead)
        assert len(batches) == steps
        for _ in range(2):
            given_ = list(batches)
            assert [b["x"][:, 0].int().tolist() for b in given_] == expected(stored, bad, per_lane, lanes, lane, steps)
            for batch in given_:
                assert batch["x"].shape == (len(batch["label"]), 2) and batch["x"].dtype == torch.float32
                assert batch["label"].dtype == torch.int64 and batch["label"].dim() == 1
                assert "name" not in batch or (
                    isinstance(batch["name"], list) and len(batch["name"]) == len(batch["x"])
                )
    together = list(examples.batches(lanes * per_lane, lanes=lanes, drop_last=drop_last))
    assert len(together) == steps
    parts = [expected(stored, bad, per_lane, lanes, lane, steps) for lane in range(lanes)]
    assert [b["x"][:, 0].int().tolist() for b in together] == [
        list(chain.from_iterable(step)) for step in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
def test_a_position_after_empty_parts_is_the_same_in_all_lanes(packed: Callable[[int], Path], reshuffle: Any) -> None:
    """129 examples in 4 lanes of 32: three lanes have nothing for the second minibatch."""
    lanes = [st.open(packed(129)).batches(128, lanes=4, lane=lane, reshuffle=reshuffle) for lane in range(4)]
    for passes in range(1, 4):
        assert [[len(batch["x"]) for batch in batches] for batches in lanes] == [[32, 1], *[[32, 0]] * 3]
        assert {batches.position for batches in lanes} == {Position(passes, 0)}
        assert len({str(batches.state_dict()) for batches in lanes}) == 1


def test_where_no_example_is_good_the_loop_is_refused_in_every_lane(packed: Callable[[int], Path]) -> None:
    examples = st.open(packed(8), map=partial(refuse, frozenset(range(8))), on_bad_example="skip")
    for lane in range(4):
        with pytest.raises(st.ShardError, match="expected a readable example, found 8 bad ones"):
            list(examples.batches(4, lanes=4, lane=lane))


def train(rank: int, rendezvous: Path, url: Path, batch_size: int, bad: frozenset[int], found: Any) -> None:
    """A plain DistributedDataParallel loop, as the README of `stream` writes it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    examples = st.open(url, map=partial(refuse, bad), on_bad_example="skip") if bad else st.open(url)
    batches = examples.batches(batch_size, lanes=RANKS, lane=rank)
    sizes = []
    for _ in range(2):
        for batch in batches:
            count = torch.tensor(float(len(batch["x"])))
            torch.distributed.all_reduce(count)
            loss = (model(batch["x"]).squeeze(1) - 1).square().sum() * RANKS / count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sizes.append(len(batch["x"]))
    found.put((rank, sizes, [p.detach().numpy().copy() for p in model.parameters()]))
    torch.distributed.destroy_process_group()


def textbook(url: Path, batch_size: int, bad: frozenset[int]) -> list[np.ndarray[Any, Any]]:
    """The same in one process over whole minibatches."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    examples = st.open(url, map=partial(refuse, bad), on_bad_example="skip") if bad else st.open(url)
    batches = examples.batches(batch_size, lanes=RANKS)
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            (model(batch["x"]).squeeze(1) - 1).square().mean().backward()
            optimizer.step()
    return [p.detach().numpy() for p in model.parameters()]


@contextlib.contextmanager
def ended(processes: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("skip", [False, True])
def test_a_loop_of_two_processes_that_wait_for_each_other_ends(
    packed: Callable[[int], Path], tmp_path: Path, skip: bool
) -> None:
    """13 examples in minibatches of 4 over 2 lanes: 2 + 2, 2 + 2, 2 + 2, 1 + 0. Skipped: all of lane 0's first part."""
    url = packed(13)
    bad = frozenset(int(number) for number in st.open(url)[0:2]["x"][:, 0]) if skip else frozenset[int]()
    context = multiprocessing.get_context("forkserver")
    found = context.Queue()
    arguments = (tmp_path / "meet", url, 4, bad, found)
    processes = [context.Process(target=train, args=(rank, *arguments), daemon=True) for rank in range(RANKS)]
    with ended(processes):
        for process in processes:
            process.start()
        by_rank = {
            rank: (sizes, parameters) for rank, sizes, parameters in (found.get(timeout=SECONDS) for _ in processes)
        }
    assert by_rank[0][0] == [0 if skip else 2, 2, 2, 1] * 2 and by_rank[1][0] == [2, 2, 2, 0] * 2
    for mine, theirs, plain in zip(by_rank[0][1], by_rank[1][1], textbook(url, 4, bad), strict=True):
        assert np.array_equal(mine, theirs)
        np.testing.assert_allclose(mine, plain, rtol=1e-5)
