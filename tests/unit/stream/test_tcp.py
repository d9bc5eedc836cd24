"""Batches over TCP: who may have them, and what is said when either end is gone; what they hold, test_reader says."""

import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from streamtrain.errors import WorkerLost
from streamtrain.stream.ahead.ring import RingShape
from streamtrain.stream.ahead.tcp import TOKEN_BYTES, WireHandle, WireReader, WireWriter
from streamtrain.values import Loading
from tests.support.command import ROOT

SHAPE = RingShape(2, 3, {"x": ("<f4", (2,)), "label": ("<i8", ())})
HERE = "127.0.0.1"
STREAMER = """
import signal
import numpy as np
from streamtrain.stream.ahead.tcp import WireWriter
from tests.unit.stream.test_tcp import SHAPE, batch
writer = WireWriter(SHAPE, "127.0.0.1")
print(writer.handle.port, writer.handle.token.hex(), flush=True)
writer.put(batch(1), lambda: False)
signal.pause()
"""


def batch(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full((3, 2), number, np.float32), "label": np.arange(number, number + 3)}


def put(writer: WireWriter, *numbers: int) -> None:
    for number in numbers:
        assert writer.put(batch(number), lambda: False)


def test_who_has_not_the_token_gets_nothing_and_stops_nobody() -> None:
    writer = WireWriter(SHAPE, HERE)
    put(writer, 1)
    where = (HERE, writer.handle.port)
    for said in (b"", b"short", b"\0" * TOKEN_BYTES):
        with socket.create_connection(where) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    reader = WireReader(writer.handle, 5.0)
    assert reader.get()["label"].tolist() == [1, 2, 3]
    reader.close()
    writer.close()


def test_what_a_killed_streamer_had_sent_is_taken_first() -> None:
    with subprocess.Popen([sys.executable, "-c", STREAMER], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        port, token = process.stdout.readline().split()
        reader = WireReader(WireHandle(HERE, int(port), bytes.fromhex(token), SHAPE), 5.0)
        found = reader.get()
        assert all(np.array_equal(found[name], array) for name, array in batch(1).items())
        process.send_signal(signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(WorkerLost, match="the streamer failed or died"):
                reader.get()
        process.wait()
        with pytest.raises(WorkerLost, match=r"the streamer at 127\.0\.0\.1 cannot be reached: .*refused"):
            WireReader(WireHandle(HERE, int(port), bytes.fromhex(token), SHAPE), 5.0)
    reader.close()


def test_so_many_are_ahead_on_either_side_and_what_they_cost_is_told() -> None:
    writer = WireWriter(SHAPE, HERE)
    writer.note(Loading(0.0, 10, 1, 2, 3, 4, 5))
    reader = WireReader(writer.handle, 5.0)
    put(writer, *range(2 * SHAPE.depth))
    assert [reader.get()["label"][0] for _ in range(2 * SHAPE.depth)] == list(range(2 * SHAPE.depth))
    assert reader.loading == Loading(0.0, 10, 1, 2, 3, 4, 5)
    writer.put({}, lambda: False)
    assert reader.get() == {}, "all were skipped"
    reader.close()
    writer.close()


def test_ends_close_while_the_other_waits() -> None:
    large = RingShape(1, 1000, {"x": ("<f8", (1000,))})
    for first in ("reader", "writer"):
        writer = WireWriter(large, HERE)
        reader = WireReader(writer.handle, 5.0)
        stop, arrays = threading.Event(), {"x": np.ones((1000, 1000))}
        putting = threading.Thread(target=lambda: all(writer.put(arrays, stop.is_set) for _ in range(20)))  # noqa: B023
        putting.start()
        reader.get()
        reader.close() if first == "reader" else writer.close()
        stop.set()
        putting.join()
        writer.close() if first == "reader" else reader.close()
        assert not writer._thread.is_alive() and not reader._thread.is_alive()


def test_nobody_came() -> None:
    writer = WireWriter(SHAPE, HERE)
    put(writer, 1, 2)
    assert not writer.put(batch(3), lambda: True), "stopped"
    writer.close()
    assert not writer._thread.is_alive()


def test_a_batch_larger_than_agreed_is_refused() -> None:
    with socket.create_server((HERE, 0)) as server:
        reader = WireReader(WireHandle(HERE, server.getsockname()[1], b"token", SHAPE), 5.0)
        with server.accept()[0] as connection:
            assert connection.recv(5) == b"token"
            connection.sendall(np.array([0, 0, 0, 0, 0, 0, 10**12, 2, 10**12]).tobytes())
            with pytest.raises(WorkerLost):
                reader.get()
    reader.close()
