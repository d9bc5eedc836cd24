"""Connections between hosts: every message arrives whole and in order, whatever its size, and a loss is noticed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import streamtrain.aggregate.exchange.collective.wire as wire_module
from streamtrain.aggregate.exchange.collective.group import Address, Membership, open_store, store_at
from streamtrain.aggregate.exchange.collective.wire import Wire, connect
from streamtrain.errors import WorkerLost

WORKERS = 3


def together(work: Callable[[int, Address], object], workers: int = WORKERS) -> list[object]:
    """All workers at once, each as a thread, with a store to meet at."""
    address, store = open_store("127.0.0.1")
    with ThreadPoolExecutor(workers) as threads:
        answers = list(threads.map(work, range(workers), [address] * workers))
    del store
    return answers


def membership(worker: int, workers: int = WORKERS) -> Membership:
    return Membership(worker, tuple(range(each, each + 1) for each in range(workers)))


def message(source: int, target: int, turn: int, size: int) -> np.ndarray:
    return np.random.default_rng((source, target, turn)).integers(0, 256, size, np.uint8)


@settings(max_examples=20)
@given(some.lists(some.sampled_from([0, 1, 63, 4096, 300_000, 5_000_000]), min_size=18, max_size=18))
def test_messages_arrive_whole_and_in_order_also_when_more_are_sent_before_anyone_waits(lengths: list[int]) -> None:
    def size(source: int, target: int, turn: int) -> int:
        return 0 if source == target else lengths[(source * WORKERS + target) * 2 + turn]

    def work(me: int, address: Address) -> bool:
        wire, sent = connect(address, membership(me)), []
        for turn in range(2):
            leaving, coming = ([size(*pair, turn) for pair in pairs] for pairs in ([*to(me)], [*of(me)]))
            outof = np.concatenate([message(me, peer, turn, leaving[peer]) for peer in range(WORKERS)])
            into = torch.zeros(sum(coming), dtype=torch.uint8)
            sent.append((turn, coming, into, wire.send(into, torch.from_numpy(outof), coming, leaving)))
        right = []
        for turn, coming, into, parcel in sent:
            parcel.wait()
            expected = np.concatenate([message(peer, me, turn, coming[peer]) for peer in range(WORKERS)])
            right.append(bool(np.array_equal(into.numpy(), expected)))
        wire.close()
        return all(right)

    def to(me: int) -> list[tuple[int, int]]:
        return [(me, peer) for peer in range(WORKERS)]

    def of(me: int) -> list[tuple[int, int]]:
        return [(peer, me) for peer in range(WORKERS)]

    assert together(work) == [True] * WORKERS


def test_whoever_waits_for_one_that_left_is_told_so() -> None:
    def work(me: int, address: Address) -> str:
        wire, nothing = connect(address, membership(me)), torch.zeros(0, dtype=torch.uint8)
        if me == 2:
            wire.close()
            return ""
        coming = [0, 0, 8]
        with pytest.raises(OSError) as raised:
            wire.send(torch.zeros(8, dtype=torch.uint8), nothing, coming, [0] * WORKERS).wait()
        wire.close()
        return str(raised.value)

    assert all("closed" in answer or "reset" in answer for answer in map(str, together(work)[:2]))


def test_one_who_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "MEETING_SECONDS", 0.2)
    address, store = open_store("127.0.0.1")
    with pytest.raises(WorkerLost, match="another worker was lost while the workers met"):
        connect(address, membership(0, workers=2))
    del store


@pytest.mark.parametrize("hello", [b"", b"x" * 36, b"GET / HTTP/1.1\r\n\r\n"])
def test_a_stranger_who_connects_is_turned_away(hello: bytes) -> None:
    def work(me: int, address: Address) -> bool:
        if me == 2:
            host, port = store_at(address).get("worker 0").decode().split()
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(hello)
                stranger.shutdown(socket.SHUT_WR)
                turned_away = stranger.recv(1) == b""
            met = connect(address, membership(1, workers=2))
            met.close()
            return turned_away
        if me == 0:
            met = connect(address, membership(0, workers=2))
            met.close()
        return True

    assert all(together(work))


def test_a_connection_broken_by_one_from_whom_nothing_is_expected_is_noticed() -> None:
    def pair() -> tuple[socket.socket, socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0))
        mine = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        listener.close()
        return mine, theirs

    (quiet, gone), (awaited, alive) = pair(), pair()
    wire = Wire({1: quiet, 2: awaited})
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing resets the connection
    gone.close()
    nothing = torch.zeros(0, dtype=torch.uint8)
    parcel = wire.send(torch.zeros(4, dtype=torch.uint8), nothing, [0, 0, 4], [0, 0, 0])
    with pytest.raises(ConnectionError, match="worker 1 broke"):
        parcel.wait()
    wire.close()
    alive.close()
