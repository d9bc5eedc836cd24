"""A rehearsal on a few examples: the very calls of training, on the CPU, before anything starts (promise 15).

A lane's forward and backward, an evaluation, other examples, the same lane again, an update, the state dict and back.
What the lane leaves must be the same both times, bit for bit: else something is at work that is no function of the
examples, the seed and the state, and the bits would depend on the workers and on how often risk is measured.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import JobError, NonFiniteError, complaint, users_code
from streamtrain.model.evaluation import evaluate
from streamtrain.model.gradient import Gradient
from streamtrain.model.objective import cut
from streamtrain.prepare.plan import Plan
from streamtrain.stream.examples.generators import seed_all
from streamtrain.values import Arrays

MOST_UPDATED = 2**28
"""Bytes of parameters up to which an update is rehearsed: it takes twice their state."""
SEEDS = 11, 12
"""Of a lane and of another."""


class Rehearsal:
    """A run of one worker and one lane, in memory of its own.

    Args:
        gradient: of a job on the CPU.

    Raises:
        JobError: the model's state dict is not one of tensors that can be saved and loaded.
    """

    def __init__(self, plan: Plan, gradient: Gradient) -> None:
        job = plan.job
        self._gradient = gradient
        self._pack = job.data.pack
        check_saving(gradient.model)
        descent = Descent.of(job)
        memory = private_memory(gradient.layout, descent, Capacity(1))
        aggregator = Aggregator(
            gradient.layout,
            descent,
            rate_of=plan.rate_of,
            worker=0,
            workers=1,
            scaled=job.precision == "fp16",
        )
        self._exchange = SharedExchange(memory, aggregator, [range(1)], 0, {0: os.getpid()})
        gradient.write(self._exchange.state, gradient.model.state_dict())
        gradient.load(self._exchange.state)
        self._held = _held(gradient.model)
        self._begun = self._state()

    def lane(self, arrays: Arrays, seed: int = SEEDS[0]) -> dict[str, bytes]:
        """One lane's part of a step; a digest of all that it leaves, by what it is."""
        slot = self._exchange.slot(0)
        self._gradient.lane({name: array.copy() for name, array in arrays.items()}, slot, seed)
        changed = self._gradient.modes.changed()
        if changed is not None:
            do = "set modes in the model's function, not in forward"
            found = "another one after a forward"
            raise JobError(complaint(_part(changed), expected="to keep its mode", found=found, do=do))
        layout = self._gradient.layout
        return _digests(layout, slot.gradient, slot.buffers, slot.counters)

    def run(self, arrays: Arrays, training: Arrays) -> None:
        """All of it.

        Args:
            arrays: as evaluations get them. training: the same examples as lanes get them.

        Raises:
            JobError: something fails, or is not a function of what it may depend on.
        """
        gradient = self._gradient
        seed_all(1)
        first = self.lane(training)
        _refuse_changed(self._held, _held(gradient.model))
        self._evaluate_twice(arrays)
        self.lane(self._others(training), SEEDS[1])
        seed_all(2)
        _refuse_other(first, self.lane(training))
        _refuse_changed(self._held, _held(gradient.model))
        _refuse_changed(self._begun, self._state())
        self._refuse_lost_buffers(first)
        self._update()
        with users_code("the model's load_state_dict"):
            gradient.model.load_state_dict(gradient.state_dict())

    def _others(self, arrays: Arrays) -> Arrays:
        """The same examples backwards; of those that share rows the first."""
        pack = self._pack
        return cut(arrays, pack, 0, 1) if pack else {name: array[::-1] for name, array in arrays.items()}

    def _evaluate_twice(self, arrays: Arrays) -> None:
        risks = []
        for seed in SEEDS:
            seed_all(seed)
            risks.append(repr(evaluate(self._gradient, {name: array.copy() for name, array in arrays.items()})))
        if risks[0] != risks[1]:
            raise JobError(
                complaint(
                    "the model in evaluation mode, or its loss",
                    expected="the same risk of the same examples each time",
                    found="another one",
                    do="draw nothing there (functional.dropout wants training=self.training), and keep what changes "
                    "in buffers",
                )
            )

    def _state(self) -> dict[str, bytes]:
        """Of the parameters in the state, and of its buffers."""
        state = self._exchange.state
        return _digests(self._gradient.layout, state.parameters, state.buffers, state.counters)

    def _refuse_lost_buffers(self, left: Mapping[str, bytes]) -> None:
        """A buffer that training changes and that the state dict lacks would be lost with the run."""
        saved = self._gradient.model.state_dict().keys()
        for name, _ in self._gradient.model.named_buffers():
            key = f"buffer {name!r}"
            if name not in saved and left.get(key) != self._begun.get(key):
                do = "register it with persistent=True"
                expected = "a buffer that training changes to be in the state dict"
                raise JobError(complaint(f"model, {key}", expected=expected, found="that it is not", do=do))

    def _update(self) -> None:
        layout = self._gradient.layout
        if layout.size * layout.dtype.itemsize > MOST_UPDATED:
            return
        try:
            self._exchange.meet()
        except NonFiniteError:  # of a few examples: what the job does then is the run's to decide
            return
        self._gradient.forget()
        self._gradient.load(self._exchange.state)


def check_saving(model: torch.nn.Module) -> None:
    """Refuses a state dict that has no place in a safetensors file, by the entry's name.

    Raises:
        JobError: an entry is no tensor or of a type that the file has not; a trained parameter is missing.
    """
    with users_code("the model's state_dict"):
        entries = model.state_dict()
    do = "keep it as an attribute that the model's function sets, outside of the state dict"
    for name, value in entries.items():
        where = f"model, {name!r} of its state dict"
        if not isinstance(value, torch.Tensor):
            raise JobError(complaint(where, expected="a tensor", found=type(value).__name__, do=do))
        found = _unsaved(value)
        if found:
            expected = "a dense tensor of a type that safetensors files hold"
            raise JobError(complaint(where, expected=expected, found=found, do=do))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (name not in entries or entries[name].shape != parameter.shape):
            where, do = f"model, parameter {name!r}", "leave the state dict's names and shapes as they are"
            raise JobError(complaint(where, expected="it in the state dict by its name", found="another", do=do))


def _unsaved(value: torch.Tensor) -> str:
    """Why a tensor has no place in a safetensors file; empty where it has one."""
    from safetensors.torch import save

    kind = type(value.detach())
    if value.layout != torch.strided or value.is_quantized or kind not in (torch.Tensor, torch.nn.Parameter):
        return f"{value.layout}, {value.dtype}, {kind.__name__}"
    try:
        save({"tensor": torch.empty(0, dtype=value.dtype)})
    except Exception as error:  # what it raises for a type it has not differs from version to version
        return " ".join(f"{value.dtype} ({error})".split())[:200]
    return ""


def _refuse_other(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> None:
    for name, digest in first.items():
        if second[name] != digest:
            what = "the gradient of " if name.startswith("parameter") else ""
            raise JobError(
                complaint(
                    "the model in training mode",
                    expected="the same of the same examples and the same seed",
                    found=f"other bits of {what}{name} after an evaluation and other examples",
                    do="draw from torch's generators only, and keep what changes from call to call in buffers",
                )
            )


def _held(model: torch.nn.Module) -> dict[str, bytes]:
    """Digests of the frozen parameters; of all others and of the buffers that they are there."""
    held = {f"buffer {name!r}": b"" for name, _ in model.named_buffers()}
    for name, parameter in model.named_parameters():
        dense = parameter.layout == torch.strided and not parameter.requires_grad
        held[f"parameter {name!r}"] = _digest(parameter) if dense else b""
    return held


def _refuse_changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    do = "leave parameters alone in forward, train() and eval(), and register all tensors in the constructor"
    for name in (*before, *after):
        found = "a new one" if name not in before else "none" if name not in after else "other values"
        if before.get(name) != after.get(name):
            expected = "it as before after a forward and an evaluation"
            raise JobError(complaint(f"model, {name}", expected=expected, found=found, do=do))


def _part(name: str) -> str:
    return f"model, part {name!r}" if name else "model"


def _digests(
    layout: Layout, parameters: torch.Tensor, buffers: torch.Tensor, counters: torch.Tensor
) -> dict[str, bytes]:
    """Of each tensor in a state's or a slot's vectors, by what it is."""
    found = {f"parameter {p.name!r}": _digest(parameters[p.start : p.stop]) for p in layout.parameters}
    found |= {f"buffer {p.name!r}": _digest(buffers[p.start : p.stop]) for p in layout.buffers}
    return found | {f"buffer {p.name!r}": _digest(counters[p.start : p.stop]) for p in layout.counters}


def _digest(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(values.numpy().data, digest_size=16).digest()
