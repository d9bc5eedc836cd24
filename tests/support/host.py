"""One worker on a host of its own: ``python -m tests.support.host MODEL WORKER WORKERS STEPS HOST PORT [LOST_AFTER]``.

Worker 0 opens the store at HOST on a free port (PORT is 0) and prints it. Everyone prints its end state; with
LOST_AFTER it prints "training" before its last steps, one of which takes longer than that, and then what it lost.
"""

import sys
import time

import torch

from streamtrain.aggregate.exchange.collective.group import Address, open_store
from streamtrain.errors import WorkerLost
from tests.support.steps import FULL, Member

if __name__ == "__main__":
    model, worker, workers, steps, host, port, *lost_after = sys.argv[1:]
    torch.set_num_threads(1)
    member = Member(model, FULL, int(worker), int(workers), int(steps))
    address = Address(host, int(port))
    if not address.port:
        address, store = open_store(host)
        print(address.port, flush=True)
    member.join_collective(address, lost_after=float(lost_after[0]) if lost_after else 10.0)
    if lost_after:
        member.train(until=5)
        if member.worker:
            time.sleep(2.5 * float(lost_after[0]))  # a slow step: its peer waits for it
        member.train(until=10)
        print("training", flush=True)
    try:
        member.train()
        print(member.sha256(), flush=True)
    except WorkerLost as lost:
        print(lost, flush=True)
    sys.stdin.readline()  # until everyone is done: the store is worker 0's
    member.exchange.abandon()
