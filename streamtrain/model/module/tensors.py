"""What tensors a user's model holds: which of them can be kept to the bit, and its buffers on their way to the state.

Parameters that are trained have one element type, that of the job's precision. All else keeps the type that the user
gave it: frozen parameters are left alone; a buffer travels through the state's vectors of float64 and int64, which hold
every floating-point number of up to 64 bits and every integer, and complex numbers as pairs.
"""

from __future__ import annotations

import itertools

import torch
from torch.nn.parameter import is_lazy

from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.aggregate.vector import Layout, Place, real_view
from streamtrain.errors import JobError, complaint

Owners = dict[int, list[tuple[torch.nn.Module, str]]]


def check_tensors(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Refuses, by its name, what could not be kept as it is.

    Args:
        dtype: that trained parameters are to have.

    Raises:
        JobError: a parameter or buffer of a kind, layout or type that is not kept, or a trained parameter whose memory
            is another tensor's too: each gets memory of its own, so they would part.
    """
    for name, parameter in model.named_parameters():
        where = f"model, parameter {name!r}"
        _check_values(where, parameter)
        if parameter.requires_grad:
            _check_trained(where, parameter, dtype)
    for name, buffer in model.named_buffers():
        where = f"model, buffer {name!r}"
        _check_values(where, buffer)
        _check_buffer(where, buffer)
    _check_apart(model)


def cast_up(model: torch.nn.Module) -> None:
    """Brings float32 parameters and buffers to float64, which holds them exactly; leaves all others."""
    for parameter in model.parameters():
        if parameter.dtype == torch.float32 and parameter.layout == torch.strided:
            parameter.data = parameter.data.double()
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype == torch.float32 and buffer.layout == torch.strided:
                module._buffers[key] = buffer.double()


class Buffers:
    """A model's buffers, each found anew where it is: a forward may put another tensor in its place."""

    def __init__(self, model: torch.nn.Module, layout: Layout) -> None:
        tensors = dict(model.named_buffers())
        owners: Owners = {}
        for module in model.modules():
            for key, buffer in module._buffers.items():
                if buffer is not None:
                    owners.setdefault(id(buffer), []).append((module, key))
        self._floating = [_Buffer(place, tensors[place.name], owners) for place in layout.buffers]
        self._counting = [_Buffer(place, tensors[place.name], owners) for place in layout.counters]

    def load(self, state: State) -> None:
        """Makes the state's buffers the model's."""
        for buffer in self._floating:
            buffer.load(state.buffers)
        for buffer in self._counting:
            buffer.load(state.counters)

    def leave(self, slot: Slot | DeviceSlot) -> None:
        """Copies the model's buffers to a lane's slot.

        Raises:
            JobError: the forward has given one another shape.
        """
        for buffer in self._floating:
            buffer.leave(slot.buffers)
        for buffer in self._counting:
            buffer.leave(slot.counters)


class _Buffer:
    """One buffer. ``owners``: of every buffer by its identity, the modules that hold it and under which name."""

    def __init__(
        self, place: Place, tensor: torch.Tensor, owners: dict[int, list[tuple[torch.nn.Module, str]]]
    ) -> None:
        self._place = place
        self._tensor = tensor
        self._values = real_view(tensor)
        self._owners = owners.get(id(tensor), [])

    def load(self, vector: torch.Tensor) -> None:
        for module, key in self._owners:
            if module._buffers[key] is not self._tensor:  # the last forward bound another tensor to its name
                module._buffers[key] = self._tensor
        self._values.copy_(self._place.view(vector))

    def leave(self, vector: torch.Tensor) -> None:
        now = self._values
        if self._owners:
            module, key = self._owners[0]
            found = module._buffers[key]
            if found is not self._tensor:
                now = real_view(found) if isinstance(found, torch.Tensor) else torch.empty(0)
        if now.shape != self._place.shape:
            where, do = f"model, buffer {self._place.name!r}", "fill it in place, e.g. by copy_()"
            raise JobError(
                complaint(
                    where,
                    expected=f"shape {self._place.shape} after the forward as before",
                    found=f"shape {tuple(now.shape)}",
                    do=do,
                )
            )
        self._place.view(vector).copy_(now)


def _check_values(where: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        do = "call the model on an example in its function, before it returns it"
        raise JobError(complaint(where, expected="a shape", found="none yet, as of a lazy module", do=do))
    if tensor.is_meta:
        do = "give it values in the model's function"
        raise JobError(complaint(where, expected="values", found="none, on the meta device", do=do))
    if tensor.is_conj() or tensor.is_neg():
        found = "a conjugate's view" if tensor.is_conj() else "a negative's view"
        do = "bring them there by .resolve_conj().resolve_neg() in the model's function"
        raise JobError(complaint(where, expected="values as they lie in memory", found=found, do=do))


def _check_trained(where: str, parameter: torch.nn.Parameter, dtype: torch.dtype) -> None:
    kind = type(parameter.data)
    if parameter.layout != torch.strided or kind is not torch.Tensor:
        found = str(parameter.layout) if parameter.layout != torch.strided else kind.__name__
        do = "make it a dense tensor, or freeze it by requires_grad_(False)"
        raise JobError(complaint(where, expected="a dense tensor (torch.strided)", found=found, do=do))
    if parameter.dtype != dtype:
        do = "cast it in the model's function, e.g. by .float(), freeze it, or set precision"
        expected = f"{dtype}, as precision says of what is trained"
        raise JobError(complaint(where, expected=expected, found=str(parameter.dtype), do=do))
    if getattr(parameter, "_post_accumulate_grad_hooks", None):
        expected = "no hook after the gradient's accumulation: gradients go to the lanes' sums"
        raise JobError(
            complaint(where, expected=expected, found="such a hook", do="use register_hook, which sees the gradient")
        )


def _check_buffer(where: str, buffer: torch.Tensor) -> None:
    """Tries whether it comes back from the state's vector as it was, bit for bit, and can be written to."""
    do = "keep it as a plain attribute, or as a dense tensor of its own memory"
    if buffer.layout != torch.strided or buffer.is_quantized or type(buffer) is not torch.Tensor:
        found = str(buffer.layout) if buffer.layout != torch.strided else f"{buffer.dtype}, {type(buffer).__name__}"
        raise JobError(complaint(where, expected="a dense tensor (torch.strided)", found=found, do=do))
    try:
        values = real_view(buffer)
        vector = torch.empty(values.shape, dtype=torch.float64 if values.is_floating_point() else torch.int64)
        back = torch.empty_like(values).copy_(vector.copy_(values))
        kept = torch.equal(_bits(back), _bits(values))
        values.copy_(back)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        found = " ".join(f"{buffer.dtype}: {error}".split())[:200]
        raise JobError(complaint(where, expected="one that can be copied and written to", found=found, do=do)) from None
    if not kept:
        raise JobError(complaint(where, expected="one whose bits can be kept", found=str(buffer.dtype), do=do))


def _check_apart(model: torch.nn.Module) -> None:
    """Refuses trained parameters that share elements with others by being views; one `Parameter` twice is one."""
    tensors: dict[str, torch.Tensor] = {f"parameter {name!r}": each for name, each in model.named_parameters()}
    tensors |= {f"buffer {name!r}": each for name, each in model.named_buffers()}
    by_storage: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and tensor.numel() and type(tensor.data) is torch.Tensor:
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    for sharing in by_storage.values():
        for (name, one), (before, other) in itertools.combinations(reversed(sharing), 2):
            if (one.requires_grad or other.requires_grad) and _share_elements(one, other):
                found, do = f"that of {before}", "tie them by one Parameter under both names, or clone one"
                raise JobError(complaint(f"model, {name}", expected="memory of its own", found=found, do=do))


def _share_elements(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one storage have bytes in common at which elements of both begin."""
    (start, stop), (its_start, its_stop) = _extent(one), _extent(other)
    first, last = min(start, its_start), max(stop, its_stop)
    if stop <= its_start or its_stop <= start:
        return False
    return bool((_mask(one, first, last) & _mask(other, first, last)).any())


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte, and the one behind the last."""
    steps = sum((int(size) - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + steps + 1) * tensor.element_size()


def _mask(tensor: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Of the storage's bytes from ``first`` to ``last``: where an element begins."""
    size = tensor.element_size()
    mask = torch.zeros(last - first, dtype=torch.bool)
    strides = [each * size for each in tensor.stride()]
    mask.as_strided(tensor.shape, strides, tensor.storage_offset() * size - first).fill_(True)
    return mask


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
