"""One block of memory that holds a run's state and the workers' contributions, private or shared."""

from streamtrain.aggregate.exchange.memory.frozen import Frozen
from streamtrain.aggregate.exchange.memory.mapped import (
    Handle,
    keep_block,
    open_block,
    open_file,
    private_block,
    shared_block,
)
from streamtrain.aggregate.exchange.memory.sections import (
    Capacity,
    DeviceMemory,
    Memory,
    Scratch,
    block_size,
    private_memory,
    state_sections,
)

__all__ = [
    "Capacity",
    "DeviceMemory",
    "Frozen",
    "Handle",
    "Memory",
    "Scratch",
    "block_size",
    "keep_block",
    "open_block",
    "open_file",
    "private_block",
    "private_memory",
    "shared_block",
    "state_sections",
]
