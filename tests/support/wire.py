"""One end of a stream on a host of its own.

``python -m tests.support.wire streamer HOST PAUSE`` prints port and token, and sends two batches, the second after so
many seconds. ``python -m tests.support.wire worker HOST PORT TOKEN LOST_AFTER`` prints each, then what it lost.
"""

import sys
import time

import numpy as np

from streamtrain.errors import WorkerLost
from streamtrain.stream.ahead.ring import RingShape
from streamtrain.stream.ahead.tcp import WireHandle, WireReader, WireWriter

SHAPE = RingShape(2, 1, {"x": ("<i8", ())})

if __name__ == "__main__":
    kind, host, *more = sys.argv[1:]
    if kind == "streamer":
        writer = WireWriter(SHAPE, host)
        print(writer.handle.port, writer.handle.token.hex(), flush=True)
        writer.put({"x": np.array([1])}, lambda: False)
        time.sleep(float(more[0]))  # a slow example: the worker waits for it
        writer.put({"x": np.array([2])}, lambda: False)
    else:
        reader = WireReader(WireHandle(host, int(more[0]), bytes.fromhex(more[1]), SHAPE), float(more[2]))
        try:
            while True:
                print(reader.get()["x"][0], flush=True)
        except WorkerLost as lost:
            print(lost, flush=True)
    sys.stdin.readline()
