"""What a process sees of another's writes: who publishes, when, and what every kind of machine needs for it."""

import fcntl
import multiprocessing
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from streamtrain import memory_order
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange import barrier, pool
from streamtrain.aggregate.exchange.barrier import SharedBarrier
from streamtrain.aggregate.exchange.memory import Capacity, Handle, Memory, block_size, open_block, open_file
from streamtrain.aggregate.exchange.memory import shared_block as make_block
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import ConfigError
from streamtrain.stream.ahead import ring
from streamtrain.stream.ahead.ring import RingReader, RingShape, RingWriter

ROUNDS = 2_000


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    expected = (
        "memory shared by processes: expected Linux on x86-64 or arm64, found Linux on riscv64; train in one process"
    )
    for made in (lambda: make_block(4096), lambda: RingWriter(RingShape(2, 1, {"x": ("uint8", (1,))}))):
        with pytest.raises(ConfigError, match=expected):
            made()


def test_a_kernel_without_the_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_has = memory_order.Calls(futex=98, membarrier=10_000, keeps_order=False)
    monkeypatch.setattr(memory_order, "_CALLS", {"aarch64": nobody_has})
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match="found Linux on aarch64 whose kernel has no membarrier"):
        make_block(4096)
    monkeypatch.setattr(memory_order, "_membarrier", 10_000)
    with pytest.raises(OSError, match="membarrier"):
        memory_order.publish()


@pytest.fixture(params=[False, True], ids=["as it is here", "by membarrier"])
def ordered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """What arm64 does works on x86-64 as well, and is tried there too."""
    if request.param:
        _by_membarrier(monkeypatch.setattr)
    yield request.param


def _by_membarrier(setattr_: object = setattr) -> None:
    calls = memory_order.calls_here()
    assert calls is not None and callable(setattr_)
    weak = memory_order.Calls(calls.futex, calls.membarrier, keeps_order=False)
    setattr_(memory_order, "_CALLS", dict.fromkeys(memory_order._CALLS, weak))
    setattr_(memory_order, "_membarrier", calls.membarrier)


def test_who_sees_the_word_sees_the_data(ordered: bool) -> None:
    """Message passing and its way back, as all do that share memory; a real arm64 may fail it without `publish`."""
    block, handle = make_block(1 << 16)
    context = multiprocessing.get_context("spawn")
    peer = context.Process(target=_answer, args=(handle, ordered))
    peer.start()
    words, data = memoryview(block).cast("q"), np.frombuffer(block, np.int64, 4096, offset=1 << 14)
    for turn in range(1, ROUNDS + 1):
        data[:: 4096 // 16] = turn
        memory_order.publish()
        words[0] = turn
        while words[8] < turn and peer.is_alive():
            os.sched_yield()
    peer.join()
    assert peer.exitcode == 0


def _answer(handle: Handle, ordered: bool) -> None:
    if ordered:
        _by_membarrier()
    parent = multiprocessing.parent_process()
    assert parent is not None
    block = open_block(handle)
    words, data = memoryview(block).cast("q"), np.frombuffer(block, np.int64, 4096, offset=1 << 14)
    for turn in range(1, ROUNDS + 1):
        while words[0] < turn and parent.is_alive():
            os.sched_yield()
        seen = data[:: 4096 // 16].tolist()
        memory_order.publish()
        words[8] = turn
        assert seen == [turn] * 16


def test_a_worker_publishes_before_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    words = memoryview(bytearray(8 * 24)).cast("q")
    lines = [words[8:10], words[16:18]]
    seen = []
    monkeypatch.setattr(barrier, "publish", lambda: seen.append(lines[0][0]))
    here = SharedBarrier(words[:1], lines, 0, {})
    for turn in range(3):
        lines[1][0] = turn + 1
        here.wait()
    assert seen == [0, 1, 2]


def test_a_ring_publishes_batches_before_it_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    writer = RingWriter(RingShape(2, 1, {"x": ("int64", (1,))}))
    reader = RingReader(writer.handle)
    words = writer._words
    monkeypatch.setattr(ring, "publish", lambda: seen.append((words[0], words[ring.LINE // ring.WORD])))
    for turn in range(3):
        writer.put({"x": np.full((1, 1), turn)}, lambda: False)
        assert reader.get()["x"].item() == turn
    writer.fail()
    assert seen == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)] and words[1] == 1
    reader.close()
    writer.close()


def test_a_pool_publishes_while_it_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, descent, capacity = layout_of(torch.nn.Linear(2, 1)), Descent(SGD()), Capacity(2, 1)
    block, handle = make_block(block_size(layout, descent, capacity))
    other = open_file(handle)
    locked = []

    def is_locked() -> None:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked.append(True)

    monkeypatch.setattr(pool, "publish", is_locked)
    parts = Pool(
        Memory(layout, descent, capacity, block),
        Aggregator(layout, descent, rate_of=lambda step: 0.1, worker=0, workers=1),
        open_file(handle),
    )
    claim = parts.claim(1)
    assert claim is not None and parts.finish(claim)
    assert len(locked) == 2
    os.close(other)
