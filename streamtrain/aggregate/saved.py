"""A state as named tensors, for checkpoints, and back: any number of workers, any exchange, one form."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from streamtrain.aggregate.state import NUMBERS, State
from streamtrain.aggregate.vector import Layout, write
from streamtrain.errors import ConfigError, complaint

USES, PUT_BACK, SCALER, AVERAGED = "uses", "put_back", "scaler", "averaged"
"""Updates that each parameter had, in the layout's order; where there are any, parts to be offered again; where losses
are scaled, the scaler; where an average is kept, how many updates it has taken in; the optimizer's numbers."""


def collect_tensors(layout: Layout, state: State) -> dict[str, torch.Tensor]:
    """Copies on the CPU: ``parameters/NAME``, ``momentum/NAME`` and so on for every vector, and ``buffers/NAME``."""
    tensors = {USES: state.uses.detach().cpu().clone()}
    tensors |= {name: part.detach().cpu().clone() for name, part in _optional_parts(state).items()}
    for name, vector in state.vectors.items():
        for place in layout.parameters:
            tensors[f"{name}/{place.name}"] = place.view(vector).detach().cpu().clone().contiguous()
    for places, vector in ((layout.buffers, state.buffers), (layout.counters, state.counters)):
        tensors |= {f"buffers/{place.name}": place.view(vector).detach().cpu().clone().contiguous() for place in places}
    return tensors


def restore(layout: Layout, state: State, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fills ``state`` with what `collect_tensors` gave.

    Raises:
        ConfigError: they are another model's.
    """
    wanted = {f"{name}/{place.name}": place.shape for name in state.vectors for place in layout.parameters}
    wanted |= {f"buffers/{place.name}": place.shape for place in (*layout.buffers, *layout.counters)}
    wanted[USES] = tuple(state.uses.shape)
    wanted |= {name: tuple(part.shape) for name, part in _optional_parts(state).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise _mismatch(name, f"shape {shape}", f"shape {found[name]}" if name in found else "no such tensor")
    for name in sorted(found.keys() - wanted.keys()):
        raise _mismatch(name, "no such tensor", f"shape {found[name]}")
    for name, vector in state.vectors.items():
        own = {place.name: tensors[f"{name}/{place.name}"] for place in layout.parameters}
        write(layout.parameters, own, vector)
    for places, vector in ((layout.buffers, state.buffers), (layout.counters, state.counters)):
        write(places, {place.name: tensors[f"buffers/{place.name}"] for place in places}, vector)
    state.uses.copy_(tensors[USES])
    for name, part in _optional_parts(state).items():
        part.copy_(tensors[name])


def _optional_parts(state: State) -> dict[str, torch.Tensor]:
    """Parts that only some jobs have."""
    parts = {PUT_BACK: state.put_back} if len(state.put_back) else {}
    parts |= {AVERAGED: state.averaged} if len(state.averaged) else {}
    parts |= {NUMBERS: state.numbers} if len(state.numbers) else {}
    return parts | ({SCALER: state.scaler} if state.scaler[0] else {})


def _mismatch(name: str, expected: str, found: str) -> ConfigError:
    do = "resume with the model and the optimizer settings that the run began with"
    return ConfigError(complaint(f"checkpoint, {name}", expected=expected, found=found, do=do))
