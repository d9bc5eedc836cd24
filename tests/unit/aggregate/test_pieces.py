"""The aggregator's pieces: vector, tree, clipping, barrier and shared memory."""

import math
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

import pytest
import torch

from streamtrain.aggregate.descent import scaler
from streamtrain.aggregate.descent.clip import clip_scale, norm_of, squared_norm
from streamtrain.aggregate.descent.rules import Descent, cut_pieces, match_rules, take_share
from streamtrain.aggregate.exchange import barrier as barrier_module
from streamtrain.aggregate.exchange.barrier import SharedBarrier, sleep_while, wake
from streamtrain.aggregate.exchange.collective import bucket
from streamtrain.aggregate.exchange.collective.mail import Mail
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    Handle,
    Memory,
    block_size,
    open_block,
    shared_block,
)
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.tree import take_mean, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import ConfigError, JobError, WorkerLost
from streamtrain.job import Clip, Group
from streamtrain.order import lanes_of_worker
from tests.support.leftovers import named_memory


def test_layout_has_tied_parameters_once_and_frozen_ones_not_at_all() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    model.append(model[0])
    model[2].requires_grad_(False)
    layout = layout_of(model)
    assert [place.name for place in layout.parameters] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [place.name for place in layout.buffers] == ["1.running_mean", "1.running_var"]
    assert [place.name for place in layout.counters] == ["1.num_batches_tracked"]
    assert all(place.start * 4 % 256 == 0 for place in layout.parameters)


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

    assert torch.equal(tree_sum_([part.clone() for part in parts]), naive(0, lanes))


@pytest.mark.parametrize("lanes", range(1, 18))
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_whole_subtrees_of_any_hosting_add_up_to_the_same_bits(lanes: int, workers: int) -> None:
    parts = [torch.randn(50, generator=torch.Generator().manual_seed(lane)) for lane in range(lanes)]
    nodes = {}
    for worker in range(workers):
        hosted = lanes_of_worker(lanes, workers, worker)
        subtrees = whole_subtrees(lanes, hosted)
        assert [lane for node in subtrees for lane in range(*node)] == list(hosted)
        nodes |= {node: tree_sum_([parts[lane].clone() for lane in range(*node)]) for node in subtrees}
    mean = take_mean(lanes, nodes, 7, torch.empty(50))
    assert torch.equal(mean, tree_sum_([part.clone() for part in parts]) / 7)
    if lanes % 8 == 0 and workers in (1, 2):
        assert len(nodes) == workers, "an aligned run of a power of two lanes travels as one"


def test_mail_sends_each_part_to_whom_it_is_for() -> None:
    """Two workers in one process: what one lays out as outgoing, the other has as incoming."""
    parts = [(3, torch.float32), (1, torch.int64)]
    one = Mail(0, [[], parts], [[], [(2, torch.float64)]], torch.device("cpu"))
    other = Mail(1, [[(2, torch.float64)], []], [parts, []], torch.device("cpu"))
    one.to[1][0].copy_(torch.tensor([1.0, 2.0, 3.0]))
    one.to[1][1].fill_(7)
    posted: list[torch.Tensor] = []
    arrived = threading.Event()

    def send(_: torch.Tensor, outof: torch.Tensor, coming: list[int], leaving: list[int]) -> threading.Event:
        posted.append(outof)
        return arrived

    def receive(into: torch.Tensor, _: torch.Tensor, coming: list[int], leaving: list[int]) -> threading.Event:
        into.copy_(posted[0])
        arrived.set()
        return arrived

    one.post(send)
    other.post(receive)
    one.wait()
    assert other.received[0][0].tolist() == [1.0, 2.0, 3.0] and other.received[0][1].tolist() == [7]
    assert list(one.to) == [1] and all(view.data_ptr() % 64 == 0 for view in one.to[1])


def test_clipping_by_norm_is_pytorchs() -> None:
    gradient = torch.randn(1000, dtype=torch.float64)
    norm = norm_of([squared_norm(chunk) for chunk in gradient.split(300)])
    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 2.0)
    torch.testing.assert_close(gradient * clip_scale(norm, 2.0), parameter.grad)
    assert clip_scale(1.0, 2.0) == 1.0
    assert math.isnan(norm_of([1.0, math.inf])) and math.isnan(norm_of([math.nan]))


def test_the_loss_scaler_is_pytorchs() -> None:
    """Over some thousand steps with gradients that are not finite here and there."""
    twin = torch.amp.GradScaler("cpu")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    old, new = torch.tensor([scaler.FIRST, 0.0], dtype=torch.float64), torch.empty(2, dtype=torch.float64)
    for step in range(4500):
        assert old[0] == twin.get_scale() and old[1] == twin._get_growth_tracker()
        overflowed = step in (3, 4, 2300, 4400)
        parameter.grad = torch.full((1,), math.inf if overflowed else 1.0)
        twin.scale(torch.zeros(1))
        twin.step(optimizer)
        twin.update()
        scaler.adapt(old, new, torch.tensor(overflowed))
        old, new = new, old
    assert old[0] == 2.0**13 * 2


def test_pieces_cover_every_parameter_and_units_stay_whole() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(70_000, 3), torch.nn.Conv2d(8, 9, 3), torch.nn.Linear(300, 301))
    layout = layout_of(model)
    descent = Descent(SGD(), groups=(Group("[01].*", clip=Clip(adaptive=0.1)), Group("2.bias", lr_factor=2.0)))
    pieces = cut_pieces(descent, layout)
    covered = {index for piece in pieces for index in range(piece.start, piece.stop)}
    assert all(covered.issuperset(range(place.start, place.stop)) for place in layout.parameters)
    assert len(covered) == sum(piece.stop - piece.start for piece in pieces)
    assert [(piece.stop - piece.start, piece.unit) for piece in pieces[:6]] == [
        *[(70_000, 70_000)] * 3,
        (3, 3),
        (9 * 72, 72),
        (9, 9),
    ]
    for workers in (1, 2, 3, 8):
        shares = [take_share(pieces, worker, workers) for worker in range(workers)]
        assert [piece for share in shares for block in share for piece in block.pieces] == list(pieces)


def test_a_group_without_parameters_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"groups: expected parameters named 'head.\*', found weight, bias; correct the pattern",
    ):
        match_rules(Descent(SGD(), groups=(Group("head.*"),)), layout_of(torch.nn.Linear(2, 2)))


def _peer(handle: Handle, parent: int, go: "Connection[int, int]") -> None:
    memory = Memory(layout_of(torch.nn.Linear(2, 2)), Descent(SGD()), Capacity(2, 2), open_block(handle))
    barrier = SharedBarrier(memory.words[8:9], [memory.words[16:18], memory.words[24:26]], 1, {0: parent})
    for _ in range(100):
        barrier.wait()
    memory.norms[0] = 42.0
    barrier.wait()
    go.send(1)
    signal.pause()


def test_barrier_between_processes_and_a_killed_peer_is_noticed() -> None:
    layout = layout_of(torch.nn.Linear(2, 2))
    block, handle = shared_block(block_size(layout, Descent(SGD()), Capacity(2, 2)))
    memory = Memory(layout, Descent(SGD()), Capacity(2, 2), block)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    peer = context.Process(target=_peer, args=(handle, os.getpid(), theirs))
    peer.start()
    assert peer.pid is not None
    barrier = SharedBarrier(memory.words[8:9], [memory.words[16:18], memory.words[24:26]], 0, {1: peer.pid})
    for _ in range(101):
        barrier.wait()
    assert memory.norms[0] == 42.0
    assert mine.recv() == 1
    peer.kill()
    with pytest.raises(WorkerLost, match=rf"worker 1 \(process {peer.pid}\) died in the middle of a step"):
        barrier.wait()
    peer.join()


def test_a_sleeper_is_woken_and_nobody_else_costs_a_call_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier_module, "AWAKE_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(barrier_module, "LOOK_SECONDS", 0.9)  # a look would not be in time for all of them
    woken = []
    monkeypatch.setattr(barrier_module, "wake", lambda word: (woken.append(word[0]), wake(word)))
    words = memoryview(bytearray(8 * 24)).cast("q")
    lines = [words[8:10], words[16:18]]
    here = SharedBarrier(words[:1], lines, 0, {})
    there = SharedBarrier(words[:1], lines, 1, {})
    sleeps = []
    monkeypatch.setattr(barrier_module, "sleep_while", lambda *sleep: sleeps.append(sleep_while(*sleep)))

    def arrive() -> None:
        for _ in range(50):
            there.wait()

    sleeper = threading.Thread(target=arrive)
    sleeper.start()
    for _ in range(50):
        while not (lines[1][0] == lines[0][0] + 1 and lines[1][1]):
            os.sched_yield()
        here.wait()
    sleeper.join()
    assert woken == list(range(1, 51)), "one call for each time that the other slept, none for its own arrivals"
    assert sleeps and all(sleeps), "every sleep ended by being woken"


def test_shared_memory_has_no_name_that_could_be_left_behind() -> None:
    before = named_memory(os.getpid())
    block, handle = shared_block(4096)
    same = open_block(handle)
    block[:3] = b"abc"
    assert same[:3] == b"abc"
    assert named_memory(os.getpid()) == before


def test_buckets_hold_all_pieces_once_from_the_last_and_no_more_than_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = layout_of(
        torch.nn.Sequential(torch.nn.Linear(400, 300), torch.nn.Linear(300, 200), torch.nn.Linear(200, 9))
    )
    pieces = cut_pieces(Descent(SGD(lr=0.1)), layout)
    monkeypatch.setattr(bucket, "SIZE", 2**18)
    buckets = bucket.cut(pieces, 4)
    assert len(buckets) > 2
    assert [piece for each in reversed(buckets) for piece in each] == list(enumerate(pieces))
    assert all((each[-1][1].stop - each[0][1].start) * 4 <= 2**18 for each in buckets)
