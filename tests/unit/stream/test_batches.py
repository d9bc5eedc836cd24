"""`st.open`: plain PyTorch and WebDataset users get the order and the reading of a run, and a position."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs

import streamtrain as st
from streamtrain.order import Order, Reshuffle
from streamtrain.stream.ahead.copies import Copies
from streamtrain.stream.loops.batches import Batches
from streamtrain.stream.loops.opened import Examples
from streamtrain.values import Position
from tests.support.datasets import pack_digits

PRIME = 97


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("digits") / "a"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0), shard_examples=16), examples=PRIME)
    return st.open(folder)


def flat(batches: list[dict[str, torch.Tensor]]) -> np.ndarray:
    return np.concatenate([batch["image"].flatten(1).numpy() for batch in batches] or [np.empty((0, 64))])


def test_examples_by_number(examples: Examples) -> None:
    assert len(examples) == PRIME and examples[3]["image"].shape == (8, 8) and examples[-1]["label"].shape == ()
    assert np.array_equal(examples[5:9]["image"][1], examples[6]["image"])
    with pytest.raises(IndexError):
        examples[5:9:2]


def test_promise_3_a_pass_of_short_and_full_minibatches(examples: Examples) -> None:
    batches = examples.batches(10)
    first = list(batches)
    assert len(batches) == len(first) == 10 and [len(b["label"]) for b in first] == [10] * 9 + [7]
    assert np.array_equal(flat(first), examples[0:PRIME]["image"].reshape(PRIME, -1))
    assert batches.position == Position(1, 0)
    assert [len(b["label"]) for b in examples.batches(10, drop_last=True)] == [10] * 9


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
def test_promise_2_lanes_of_a_minibatch_are_those_of_a_run(examples: Examples, reshuffle: str) -> None:
    whole = examples.batches(12, lanes=3, reshuffle=reshuffle)
    lanes = [examples.batches(12, lanes=3, lane=index, reshuffle=reshuffle) for index in range(3)]
    for _ in range(2):
        together = [list(batches) for batches in (whole, *lanes)]
        for step, batch in enumerate(together[0]):
            parts = [of_lane[step] for of_lane in together[1:] if step < len(of_lane)]
            assert torch.equal(batch["image"], torch.cat([part["image"] for part in parts]))
        assert sorted(map(bytes, flat(together[0]))) == sorted(
            map(bytes, examples[0:PRIME]["image"].reshape(PRIME, -1))
        )


@settings(max_examples=60)
@given(
    batch_size=hs.integers(1, 40),
    lanes=hs.integers(1, 4),
    reshuffle=hs.sampled_from(["stored", "shards", "examples"]),
    stop=hs.integers(0, 60),
    ahead=hs.sampled_from([0, 2]),
    early=hs.booleans(),
)
def test_resuming_gives_the_rest_and_no_more(
    examples: Examples, batch_size: int, lanes: int, reshuffle: str, stop: int, ahead: int, early: bool
) -> None:
    """Stopped anywhere, at and about a pass's border too; compared without sorting."""

    def new() -> Batches:
        return examples.batches(batch_size * lanes, lanes=lanes, reshuffle=reshuffle, seed=3, ahead=ahead)

    def endless(batches: Batches) -> "itertools.chain[dict[str, torch.Tensor]]":
        return itertools.chain.from_iterable(iter(batches) for _ in itertools.count())

    straight, wanted = new(), 2 * Order(PRIME, lanes, batch_size * lanes).steps + 1
    stop = min(stop, wanted)
    expected = list(itertools.islice(endless(straight), wanted))
    broken = new()
    head = list(itertools.islice(endless(broken), stop))
    state = broken.state_dict()
    resumed = new()
    opened = iter(resumed) if early else None  # before the state comes
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.load_state_dict(resumed.state_dict())
    tail = list(itertools.islice(opened, 1)) if opened is not None and stop < wanted else []
    if opened is not None:
        opened.close()
    tail += itertools.islice(endless(resumed), wanted - stop - len(tail))
    assert np.array_equal(flat(head + tail), flat(expected))


@pytest.mark.parametrize("reshuffle", ["stored", "shards", "examples"])
@pytest.mark.parametrize("about", [-1, 0, 1])
def test_a_position_of_one_lane_is_that_of_all(examples: Examples, reshuffle: Reshuffle, about: int) -> None:
    """Stopped before, at and after a pass's border by three processes, and gone on with by one."""
    made: list[list[torch.Tensor]] = [[], [], []]
    for index in range(3):
        lane = examples.batches(15, lanes=3, lane=index, reshuffle=reshuffle)
        endless = itertools.chain.from_iterable(iter(lane) for _ in itertools.count())
        made[index] = [batch["image"] for batch in itertools.islice(endless, len(lane) + about)]
        if index == 1:
            state = lane.state_dict()
    alone, straight = (examples.batches(15, lanes=3, reshuffle=reshuffle) for _ in range(2))
    alone.load_state_dict(state)
    rest = list(alone)
    together = [{"image": torch.cat(parts)} for parts in zip(*made, strict=True)] + rest
    expected = itertools.chain.from_iterable(iter(straight) for _ in range(2))
    assert np.array_equal(flat(together), flat(list(itertools.islice(expected, len(together)))))
    assert len(together) == len(straight) * (1 if about < 0 else 2)


@pytest.mark.parametrize("ahead", [0, 3])
def test_batches_copied_to_a_device_are_the_same(examples: Examples, ahead: int) -> None:
    """The CPU, on the way that a GPU's batches go."""
    plain, copied = examples.batches(10), examples.batches(10, device="cpu", ahead=ahead)
    for _ in range(2):
        for one, other in zip(plain, copied, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    assert plain.position == copied.position == Position(2, 0)


class Streams:
    """Notes what a device's streams are asked for, as `torch.cuda` would be."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def Stream(self, *device: object) -> "Streams":  # noqa: N802 - as torch names it
        self.said.append(f"stream on {device[0]}")
        return self

    @contextlib.contextmanager
    def stream(self, _: object) -> Iterator[None]:
        self.said.append("copies")
        yield

    def record_event(self) -> str:
        return "copied"

    def current_stream(self, _: object) -> "Streams":
        return self

    def wait_event(self, event: str) -> None:
        self.said.append(f"loop waits for {event}")


def test_copies_go_through_locked_memory_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be seen without a GPU: who is asked for what, in which order."""
    streams = Streams()
    monkeypatch.setattr(torch, "get_device_module", lambda _: streams)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: streams.said.append("locked") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **how: streams.said.append(f"to, {how}") or tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, by: streams.said.append("kept for the loop"))
    copies = Copies(torch.device("cuda:1"))
    batch = copies.arrived(*copies.begin({"image": torch.ones(2), "text": ["a", "b"]}))
    assert batch["text"] == ["a", "b"] and batch["image"].sum() == 2
    there = ["copies", "locked", "to, {'non_blocking': True}", "loop waits for copied", "kept for the loop"]
    assert streams.said == ["stream on cuda:1", *there]


def test_loading_in_the_middle_of_an_iteration_takes_effect_at_once(examples: Examples) -> None:
    batches = examples.batches(10)
    state = None
    seen = []
    for batch in batches:
        seen.append(batch)
        if len(seen) == 2:
            state = batches.state_dict()
        if len(seen) == 5:
            assert state is not None
            batches.load_state_dict(state)
    assert len(seen) == 5 + 8
    assert torch.equal(seen[2]["image"], seen[5]["image"])


def test_a_position_of_other_batches_is_refused(examples: Examples) -> None:
    state = examples.batches(10).state_dict()
    with pytest.raises(st.ConfigError, match="state, batch_size: expected 20, found 10; load it into"):
        examples.batches(20).load_state_dict(state)
    with pytest.raises(IndexError):
        examples.batches(10).seek(Position(0, 11))
    with pytest.raises(st.ConfigError, match="does not divide by 3 lanes"):
        examples.batches(10, lanes=3)
    with pytest.raises(st.ConfigError, match="lane: expected 0 to 1, found 2"):
        examples.batches(10, lanes=2, lane=2)


def test_as_an_iterable_dataset(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = torch.utils.data.DataLoader(examples.batches(10), batch_size=None)
    assert np.array_equal(flat(list(loader)), flat(list(examples.batches(10))))
    monkeypatch.setattr("streamtrain.stream.loops.batches.get_worker_info", lambda: "a DataLoader's worker")
    with pytest.raises(st.ConfigError, match="DataLoader: expected no workers"):
        list(examples.batches(10))


def test_a_failure_of_the_thread_that_reads_ahead_is_raised_here(tmp_path: Path) -> None:
    pack_digits(tmp_path / "a", st.PackOptions(splits=(1, 0, 0), shard_examples=16), examples=PRIME)
    batches = st.open(tmp_path / "a").batches(10, ahead=3)
    (tmp_path / "a" / "train" / "000004.tar").unlink()
    with pytest.raises(st.ShardError, match=r"000004\.tar"):
        list(batches)


def test_a_webdataset_pipeline_reads_from_here(examples: Examples) -> None:
    import webdataset

    pipeline = webdataset.DataPipeline(
        examples.samples(),
        webdataset.decode(),
        webdataset.map(lambda sample: {**sample, "twice": 2 * sample["image.npy"]}),
        webdataset.to_tuple("twice", "label.cls"),
        webdataset.batched(10),
    )
    images, labels = zip(*pipeline, strict=True)
    assert np.array_equal(np.concatenate(images), 2 * examples[0:PRIME]["image"])
    assert np.array_equal(np.concatenate(labels), examples[0:PRIME]["label"])
    keys = [sample["__key__"] for sample in torch.utils.data.DataLoader(examples.samples(), None, num_workers=2)]
    assert sorted(keys) == [f"{number:02d}" for number in range(PRIME)]


def test_a_loop_may_look_at_single_examples_while_a_thread_reads_ahead(tmp_path: Path) -> None:
    """Both open shards."""
    count = 101
    folder = tmp_path / "d"
    pack_digits(folder, st.PackOptions(splits=(1, 0, 0), shard_examples=1), examples=count)
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(2):
            examples = st.open(folder, verify=False)
            for step, batch in enumerate(examples.batches(2, ahead=4)):
                assert np.array_equal(examples[2 * step]["image"], batch["image"][0])
                assert examples[count - 1 - step]["image"].shape == (8, 8)
    finally:
        sys.setswitchinterval(switched)
