"""The aggregator's pieces: vector, tree, clipping, schedule, barrier and shared memory."""

import math
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from streamtrain.aggregate.barrier import SharedBarrier
from streamtrain.aggregate.clip import clip_scale, norm_of, squared_norm
from streamtrain.aggregate.memory import Handle, Memory, block_size, open_block, shared_block
from streamtrain.aggregate.sgd import schedule_factor
from streamtrain.aggregate.tree import tree_sum
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import JobError, WorkerLost
from streamtrain.job import Schedule


def test_layout_has_tied_parameters_once_and_frozen_ones_not_at_all() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model.append(model[0])
    model[2].requires_grad_(False)
    layout = layout_of(model)
    assert [place.name for place in layout.parameters] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [place.name for place in layout.buffers] == ["1.running_mean", "1.running_var"]
    assert [place.name for place in layout.counters] == ["1.num_batches_tracked"]
    assert all(place.start * 4 % 64 == 0 for place in layout.parameters)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(JobError, match="expected trainable parameters of one element type, found none"):
        layout_of(torch.nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("lanes", range(1, 18))
def test_tree_adds_whole_subtrees_first(lanes: int) -> None:
    """The naive twin: a node over n lanes splits at the largest power of two below n."""
    parts = [torch.randn(50, generator=torch.Generator().manual_seed(lane)) for lane in range(lanes)]

    def naive(low: int, high: int) -> torch.Tensor:
        if high - low == 1:
            return parts[low]
        left = 1
        while left * 2 < high - low:
            left *= 2
        return naive(low, low + left) + naive(low + left, high)

    assert torch.equal(tree_sum(parts, out=torch.empty(50)), naive(0, lanes))


def test_clipping_by_norm_is_pytorchs() -> None:
    gradient = torch.randn(1000, dtype=torch.float64)
    norm = norm_of([squared_norm(chunk) for chunk in gradient.split(300)])
    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 2.0)
    torch.testing.assert_close(gradient * clip_scale(norm, 2.0), parameter.grad)
    assert clip_scale(1.0, 2.0) == clip_scale(1.0, None) == 1.0
    assert math.isnan(norm_of([1.0, math.inf])) and math.isnan(norm_of([math.nan]))


def test_schedules() -> None:
    warm = Schedule("linear", warmup_steps=4, floor=0.2)
    assert [schedule_factor(warm, step, 9) for step in (0, 3, 4, 8)] == [0.25, 1.0, 1.0, pytest.approx(0.2)]
    assert schedule_factor(Schedule("cosine"), 5, 11) == pytest.approx(0.5)
    assert schedule_factor(Schedule(), 10**9, 1) == 1.0


def _peer(handle: Handle, parent: int, go: "Connection[int, int]") -> None:
    memory = Memory(layout_of(torch.nn.Linear(2, 2)), 2, 2, open_block(handle))
    barrier = SharedBarrier(memory.words[8:9], [memory.words[16:17], memory.words[24:25]], 1, {0: parent})
    for _ in range(100):
        barrier.wait()
    memory.mean[0] = 42.0
    barrier.wait()
    go.send(1)
    signal.pause()


def test_barrier_between_processes_and_a_killed_peer_is_noticed() -> None:
    layout = layout_of(torch.nn.Linear(2, 2))
    block, handle = shared_block(block_size(layout, 2, 2))
    memory = Memory(layout, 2, 2, block)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    peer = context.Process(target=_peer, args=(handle, os.getpid(), theirs))
    peer.start()
    assert peer.pid is not None
    barrier = SharedBarrier(memory.words[8:9], [memory.words[16:17], memory.words[24:25]], 0, {1: peer.pid})
    for _ in range(101):
        barrier.wait()
    assert memory.mean[0] == 42.0
    assert mine.recv() == 1
    peer.kill()
    with pytest.raises(WorkerLost, match=rf"worker 1 \(process {peer.pid}\) died in the middle of a step"):
        barrier.wait()
    peer.join()


def test_shared_memory_has_no_name_that_could_be_left_behind() -> None:
    before = sorted(Path("/dev/shm").iterdir())
    block, handle = shared_block(4096)
    same = open_block(handle)
    block[:3] = b"abc"
    assert same[:3] == b"abc"
    assert sorted(Path("/dev/shm").iterdir()) == before
