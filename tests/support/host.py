"""One worker on a host of its own: ``python -m tests.support.host MODEL WORKER WORKERS STEPS HOST PORT``.

Worker 0 opens the store at HOST on a free port (PORT is 0) and prints it; everyone prints its end state.
"""

import sys

import torch

from streamtrain.aggregate.exchange.collective import Address, open_store
from tests.support.steps import FULL, Member

if __name__ == "__main__":
    model, worker, workers, steps, host, port = sys.argv[1:]
    torch.set_num_threads(1)
    member = Member(model, FULL, int(worker), int(workers), int(steps))
    address = Address(host, int(port))
    if not address.port:
        address, store = open_store(host)
        print(address.port, flush=True)
    member.join_collective(address)
    member.train()
    print(member.sha256(), flush=True)
    sys.stdin.readline()  # until everyone is done: the store is worker 0's
    member.exchange.abandon()
