"""What small models become in this process: one SHA-256 of parameters a line (`python -m tests.support.portable_bits`).

With the argument ``portable`` the process refuses to begin where its bits would not be the portable ones.
"""

import dataclasses
import hashlib
import sys

from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.saved import collect_tensors
from streamtrain.errors import ConfigError
from streamtrain.model.machine.device import prepare_process
from tests.support.steps import FULL, LANES, MODELS, Member, job_of

STEPS = 20


def end_of(model: str) -> str:
    member = Member(model, FULL, 0, 1, STEPS)
    gradient = member.gradient
    memory = private_memory(gradient.layout, FULL, Capacity(LANES))
    gradient.write(memory.states[0], gradient.model.state_dict())
    member.exchange = SharedExchange(memory, member.aggregator(0, 1), member.hosting, 0, {0: 0})
    member.train()
    tensors = collect_tensors(gradient.layout, member.exchange.state)
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


if __name__ == "__main__":
    wanted = "portable" if "portable" in sys.argv else "any"
    try:
        prepare_process(dataclasses.replace(job_of("mlp", FULL), bits=wanted))
    except ConfigError as error:
        sys.exit(str(error))
    print("\n".join(f"{model} {end_of(model)}" for model in MODELS))
