"""Losses over the whole minibatch: in-batch negatives over all lanes and workers, with the memory of one lane's graph.

Known as gradient caching (Gao, Zhang, Han & Callan 2021, *Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup*). What the model gives for every lane meets in every worker; each computes the loss of all, and its
gradient at what the model gave, in the same order; then every lane is computed again, with a graph, from there back.
Costs a second forward. A lane's random numbers are seeded alike in both, piece by piece, so dropout is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from streamtrain.aggregate.moments import Values, WrongWeight, leave_moments
from streamtrain.aggregate.state import DeviceSlot, Slot
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job, Weighted
from streamtrain.model.gradient import OF_BACKWARD, Gradient, Gradients, Part
from streamtrain.model.gradient_sums import add_up, densify
from streamtrain.model.objective import Batch, some_of

Gather = Callable[[Mapping[int, torch.Tensor]], list[torch.Tensor]]
"""What every lane gives, as bytes in lane order, out of what this worker's lanes give; see `Exchange.gather`."""
PIECE_BITS = 3
"""A piece's number stands in a seed above the bits that tell a lane's streams of random numbers apart."""


class WholeMinibatchGradient(Gradient):
    """A `Gradient` whose loss is over the whole minibatch.

    Attributes:
        gather: brings all lanes' outputs together; without an exchange the minibatch is this worker's lanes.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.gather: Gather = lambda mine: list(mine.values())

    def lanes(self, parts: Iterable[Part], slot_of: Callable[[int], Slot | DeviceSlot]) -> None:
        """Sum of the gradient over each lane's examples, and their moments, into its slot; see the module."""
        self.modes.train()
        mine = [(part, self._own(self.training_batch(part))) for part in parts]
        given = {part.lane: self._outputs(part, batch) for part, batch in mine}
        found = self.gather({lane: _packed(tensors, self._device) for lane, (_, tensors) in given.items()})
        form = next((each for each in given.values() if each[1]), None)
        if form is None:  # none of these lanes has an example
            for part, _ in mine:
                self.empty_lane(slot_of(part.lane))
            return
        starts, losses, slopes = self._losses_of_all(found, *form)
        for part, batch in mine:
            slot = slot_of(part.lane)
            if not part.arrays:
                self.empty_lane(slot)
                continue
            start, stop = starts[part.lane], starts[part.lane + 1]
            own = [None if slope is None else slope[start:stop] for slope in slopes]
            self._leave(slot, self._back(part, batch, own, slot))
            self._buffers.leave(slot)
            try:
                leave_moments(slot, [(some_of(losses[0], start, stop), some_of(losses[1], start, stop))])
            except WrongWeight as wrong:
                raise wrong.of_lane(part.lane) from None

    @staticmethod
    def _own(batch: Batch) -> Batch:
        """Kept until the way back, when the memory that examples came in holds others."""
        return {name: tensor.clone() for name, tensor in batch.items()}

    def _outputs(self, part: Part, batch: Batch) -> tuple[Any, list[torch.Tensor]]:
        """What the model gives for a lane, and it with the target as a list of tensors; an empty one of no examples."""
        if not part.arrays:
            return None, []
        pieces: list[list[torch.Tensor]] = []
        form: Any = None
        with torch.no_grad():
            for piece in self._seeded_pieces(part, batch):
                output = self.output(piece)
                form = output, self.objective.target(piece)
                pieces.append([*flatten(output), *flatten(form[1])])
        return form, [torch.cat(each) for each in zip(*pieces, strict=True)]

    def _seeded_pieces(self, part: Part, batch: Batch) -> Iterator[Batch]:
        self._load_buffers()
        for number, piece in enumerate(self._pieces(batch)):
            self._seed(part.seed ^ number << PIECE_BITS)
            yield piece

    def _losses_of_all(
        self, found: Sequence[torch.Tensor], form: Any, mine: Sequence[torch.Tensor]
    ) -> tuple[list[int], Values, list[torch.Tensor | None]]:
        """Where each lane's examples begin among all, loss and error of each, and the gradient at each output."""
        sizes = [_examples_in(data, mine) for data in found]
        rows = [_unpacked(data, size, mine) for data, size in zip(found, sizes, strict=True)]
        whole = [torch.cat(each) for each in zip(*rows, strict=True)]
        outputs = len(flatten(form[0]))
        leaves = [each.requires_grad_() if each.is_floating_point() else each for each in whole[:outputs]]
        output = rebuild(form[0], iter(leaves))
        losses, errors = self.objective.compared(output, rebuild(form[1], iter(whole[outputs:])))
        with users_code("the loss's backward"):
            sums = losses.sums if isinstance(losses, Weighted) else losses
            total = sums.float().sum() * self._scale if self._scaled else sums.sum()
            slopes = iter(torch.autograd.grad(total, [e for e in leaves if e.requires_grad], allow_unused=True))
        all_slopes = [next(slopes) if leaf.requires_grad else None for leaf in leaves]
        return [0, *itertools.accumulate(sizes)], (losses.detach(), errors.detach()), all_slopes

    def _back(
        self, part: Part, batch: Batch, slopes: Sequence[torch.Tensor | None], slot: Slot | DeviceSlot
    ) -> Gradients:
        """Gradient of a lane's parameters, from the gradient at its outputs."""
        whole: Gradients | None = None
        start = 0
        for number, piece in enumerate(self._seeded_pieces(part, batch)):
            outputs = flatten(self.output(piece))
            stop = start + len(outputs[0])
            pairs = [(out, s[start:stop]) for out, s in zip(outputs, slopes, strict=True) if s is not None]
            pairs = [(out, slope) for out, slope in pairs if out.requires_grad]
            start = stop
            self._seed(part.seed ^ OF_BACKWARD ^ number << PIECE_BITS)
            with users_code("the model's backward"), self._lane_gradients.taking(slot):
                found = torch.autograd.grad(
                    [out for out, _ in pairs], self.parameters, [slope for _, slope in pairs], allow_unused=True
                )
            gradients = tuple(map(densify, found))
            whole = gradients if whole is None else tuple(map(add_up, whole, gradients))
        return whole or ()


def make_gradient(job: Job) -> Gradient:
    """How a job's gradients are computed: each lane by itself, or over the whole minibatch."""
    return WholeMinibatchGradient(job) if job.loss_over == "minibatch" else Gradient(job)


def flatten(value: Any) -> list[torch.Tensor]:
    """The tensors of what a model returns: one, or tuples, lists and dicts of them, in order.

    Raises:
        JobError: something else is in it.
    """
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in flatten(each)]
    if isinstance(value, tuple | list):
        return [tensor for each in value for tensor in flatten(each)]
    where, do = "the model's output", 'return tensors, or leave loss_over="examples"'
    expected = "tensors with the examples first, or tuples, lists and dicts of them"
    raise JobError(complaint(where, expected=expected, found=type(value).__name__, do=do))


def rebuild(form: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """Another value of that form, with these tensors."""
    if isinstance(form, torch.Tensor):
        return next(tensors)
    if isinstance(form, Mapping):
        return type(form)({name: rebuild(each, tensors) for name, each in form.items()})  # type: ignore[call-arg]
    parts = [rebuild(each, tensors) for each in form]
    return type(form)(*parts) if hasattr(form, "_fields") else type(form)(parts)


def _packed(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Their sizes and their bytes, one after the other, on the device where they are; nothing of no tensor."""
    if not tensors:
        return torch.empty(0, dtype=torch.uint8, device=device)
    sizes = torch.tensor([size for tensor in tensors for size in tensor.shape], dtype=torch.int64, device=device)
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (sizes, *tensors)])


def _examples_in(data: torch.Tensor, form: Sequence[torch.Tensor]) -> int:
    """How many examples' tensors of that form the bytes hold.

    Raises:
        JobError: they are of another form.
    """
    if not data.numel():
        return 0
    head = _head_bytes(form)
    sizes = iter(data[:head].clone().view(torch.int64).tolist())
    found = [tuple(itertools.islice(sizes, tensor.dim())) for tensor in form]
    rows = sum(tensor.element_size() * tensor[0].numel() for tensor in form)
    examples = int(found[0][0])
    expected = [(examples, *tensor.shape[1:]) for tensor in form]
    if found != expected or data.numel() != head + examples * rows:
        where, do = "the model's output and the target", "pad to one size in data.map, or let the model pool"
        one, other = (", ".join(str(shape[1:]) for shape in shapes) for shapes in (expected, found))
        raise JobError(complaint(where, expected=f"one form for all lanes, as {one}", found=f"{other} in one", do=do))
    return examples


def _head_bytes(form: Sequence[torch.Tensor]) -> int:
    """Bytes of their sizes."""
    return 8 * sum(tensor.dim() for tensor in form)


def _unpacked(data: torch.Tensor, examples: int, form: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    found = []
    start = _head_bytes(form)
    for tensor in form:
        size = examples * tensor.element_size() * tensor[0].numel()
        part = data[start : start + size].clone()  # a view's start may not fit the type
        found.append(part.view(tensor.dtype).reshape(examples, *tensor.shape[1:]))
        start += size
    return found
