"""What small models become in this process: one SHA-256 of parameters a line (`python -m tests.support.portable_bits`).

With the argument ``portable`` the process refuses to begin where its bits would not be the portable ones.
"""

import dataclasses
import functools
import hashlib
import os
import subprocess
import sys

from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.saved import collect_tensors
from streamtrain.errors import ConfigError
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.machine.portable import AVX2_BRANCH, NEEDED, cpu_flags, portable_environment
from tests.support.steps import FULL, LANES, MODELS, Member, job_of

STEPS = 20
REFUSAL = "expected MKL's AVX2 branch, found its branch"
BRANCH = "from streamtrain.model.machine.portable import mkl_branch; print(mkl_branch())"


@functools.cache
def has_portable_bits() -> bool:
    """Whether this host can have them: it has AVX2, and MKL follows its switch, as on Intel's CPUs.

    Where not, the tests of portable bits hold that a run with them is refused.
    """
    environment = {**os.environ, **portable_environment()}
    done = subprocess.run([sys.executable, "-c", BRANCH], env=environment, capture_output=True, text=True, check=True)
    return cpu_flags().issuperset(NEEDED) and done.stdout.strip() in ("None", str(AVX2_BRANCH))


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
