"""One worker's copy of the model: from examples to sums of gradient, loss and error.

Costs one forward and backward a lane. Knows nothing of steps, files or other workers; random numbers
(dropout) follow from the seed given with each call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from streamtrain.aggregate.moments import Values, WrongWeight, leave_moments
from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.aggregate.vector import Layout, layout_of
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job import Job, Weighted
from streamtrain.model.gradient_sums import LaneGradients, add_up, densify
from streamtrain.model.lanes_together import count_kept, must_go_apart
from streamtrain.model.machine.device import make_callable, place_model
from streamtrain.model.module.initial import InitialParameters
from streamtrain.model.module.modes import Modes
from streamtrain.model.module.tensors import Buffers
from streamtrain.model.objective import Batch as Batch
from streamtrain.model.objective import Objective, pieces_of
from streamtrain.stream.examples.batch_augmentation import augment_batch
from streamtrain.values import Arrays, examples_in

Gradients = tuple[torch.Tensor | None, ...]
TOGETHER_BYTES = 2**23
"""Most that lanes hold that go together, examples included: a few times what a core's cache holds."""
LARGE_BYTES = 2**22
"""Gradients of so much are taken parameter by parameter: of less, backward's call for each costs more than it saves."""
OF_AUGMENTATION, OF_BACKWARD = 1, 2
"""Bits of a lane's seed that are flipped for its other streams of random numbers than the forward's."""


class Part(NamedTuple):
    """One lane's examples in a step, and the seed of its random numbers; no arrays where it has none."""

    lane: int
    arrays: Arrays | Batch
    seed: int


def build_model(job: Job) -> torch.nn.Module:
    """The job's model with its initial parameters, the same in every process.

    Raises:
        JobError: the user's function fails or returns something else.
    """
    torch.manual_seed(job.seed)
    with users_code("model"):
        model = job.model()
    if not isinstance(model, torch.nn.Module):
        raise JobError(
            complaint("model", expected="a function that returns a torch.nn.Module", found=repr(model), do="fix it")
        )
    placed = place_model(model, job)
    if isinstance(job.model, InitialParameters):
        job.model.fill(placed)
    return placed


class Gradient:
    """The model and how its sums are computed.

    Attributes:
        model: the module; its parameters are views of the state last loaded.
        layout: where its tensors lie in the vectors.
        parameters: the trainable ones, in the layout's order.
        modes: of its parts.
        objective: what is measured of its output.
        pack: how the job's examples share rows, where they do.
    """

    def __init__(self, job: Job) -> None:
        self.model = build_model(job).to(job.device)
        self.layout: Layout = layout_of(self.model)
        self._data = job.data
        self.pack = job.data.pack
        self._device = torch.device(job.device)
        self.objective = Objective(job)
        self._call = make_callable(self.model, job)
        self._scaled = job.precision == "fp16"
        parameters = dict(self.model.named_parameters())
        self.parameters = [parameters[place.name] for place in self.layout.parameters]
        self._buffers = Buffers(self.model, self.layout)
        self.modes = Modes(self.model)
        self._state: State | None = None
        self._vector: torch.Tensor | None = None
        self._micro_batch = job.micro_batch
        self._views: dict[int, list[torch.Tensor]] = {}
        self._flags: dict[tuple[bool, ...], torch.Tensor] = {}
        # in pieces or scaled, what backward makes is not yet the lane's gradient; a compiled model is left as it is
        whole = not (job.micro_batch or self._scaled or job.compile or job.device != "cpu")
        early = whole and self.layout.size * self.layout.dtype.itemsize >= LARGE_BYTES
        self._lane_gradients = LaneGradients(self.parameters, self._views_of, early=early)
        self._apart = must_go_apart(self.model, job)
        self._largest_lane = 0
        self._bytes_an_example = 0.0

    def write(self, state: State, tensors: Mapping[str, torch.Tensor]) -> None:
        """Begins ``state`` with a state dict's parameters and buffers; frozen parameters are not in it."""
        state.begin(self.layout, {**dict(self.model.named_buffers()), **tensors}, scaled=self._scaled)

    def forget(self) -> None:
        """The state last loaded was written to: the next `load` takes it again."""
        self._state = None

    def load(self, state: State, vector: torch.Tensor | None = None) -> None:
        """Makes ``state`` the model's parameters: by reference where it is on the same device, else copied to it.

        Args:
            vector: of the state, in place of its ``parameters``: their average, to be evaluated.
        """
        vector = state.parameters if vector is None else vector
        if state is self._state and vector is self._vector:
            return
        self._state = state
        self._vector = vector
        for parameter, view in zip(self.parameters, self._views_of(vector), strict=True):
            if vector.device.type == self._device.type:
                parameter.data = view
            else:
                parameter.data.copy_(view, non_blocking=True)

    def lane(self, arrays: Arrays | Batch, slot: Slot | DeviceSlot, seed: int) -> None:
        """One lane's part by itself; see `lanes`.

        Args:
            arrays: at least one example.
            slot: the lane's.
            seed: of its random numbers in this step.
        """
        self.lanes([Part(0, arrays, seed)], lambda _: slot)

    def lanes(self, parts: Iterable[Part], slot_of: Callable[[int], Slot | DeviceSlot]) -> None:
        """Sum of the gradient over each lane's examples, and their moments, into its slot.

        Small lanes go through each stage (transform, forward, backward, moments) together: what a stage runs is then in
        the core's cache for all but the first. No bit depends on which go together, as long as a backward uses only
        what autograd kept for it.

        Args:
            parts: in the order of their lanes; taken as they are needed.
            slot_of: a lane's slot; asked after the backward of the lanes before, and before its own.
        """
        self.modes.train()
        remaining = iter(parts)
        for part in remaining:
            self._group([part, *itertools.islice(remaining, self._companions(part))], slot_of)

    def empty_lane(self, slot: Slot | DeviceSlot) -> None:
        """Leaves in ``slot`` that its lane has no examples in this minibatch."""
        self._leave(slot, [None] * len(self.parameters))
        slot.moments[:] = 0

    def begin_evaluation(self) -> None:
        """Evaluation mode, at the loaded state; where there never was one, at the model as it was built."""
        if self._state is not None:
            self._load_buffers()
        self.modes.evaluate()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the loaded state: copies on the CPU."""
        self._load_buffers()
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.model.state_dict().items()}

    def batch(self, arrays: Arrays | Batch) -> Batch:
        """The examples as tensors on the device, transformed, floating-point ones in the parameters' type."""
        batch = {name: torch.as_tensor(array).to(self._device, non_blocking=True) for name, array in arrays.items()}
        if self._data.transform is not None:
            with users_code("data.transform"):
                batch = dict(self._data.transform(batch))
        return {name: self._in_type(name, tensor) for name, tensor in batch.items()}

    def output(self, batch: Batch) -> Any:
        """What the model returns for these examples, or the job's own objective."""
        return self.objective.output(self._call, batch)

    def _in_type(self, name: str, tensor: Any) -> torch.Tensor:
        """A field as the model takes it."""
        if not isinstance(tensor, torch.Tensor):
            function = "data.transform" if self._data.augment_batch is None else "data.transform or data.augment_batch"
            where, do = f"{function}, field {name!r}", "return a dict of tensors, each with the examples first"
            raise JobError(complaint(where, expected="a tensor", found=type(tensor).__name__, do=do))
        return tensor.to(self.layout.dtype) if tensor.is_floating_point() else tensor

    def _companions(self, part: Part) -> int:
        """How many further lanes may go together with this one; none before it is known what an example holds."""
        if self._apart or not (part.arrays and self._bytes_an_example):
            return 0
        self._largest_lane = max(self._largest_lane, examples_in(part.arrays))  # a pass's last lanes are short
        return max(1, int(TOGETHER_BYTES / (self._bytes_an_example * self._largest_lane))) - 1

    def _group(self, group: Sequence[Part], slot_of: Callable[[int], Slot | DeviceSlot]) -> None:
        """Some lanes, stage by stage.

        All forwards before the first backward costs the memory of all lanes' graphs at once, and is what gains: the
        code and weights of a stage are in the core's cache for every lane but the first. It changes no bit, since each
        lane's random numbers are seeded before its own stage, and no sum goes over two lanes before its slot.

        A lane's forward is split where it comes in pieces: the first piece here, the others in its backward, for their
        graphs are what pieces are to save. The very first lane goes alone: what its graph holds is counted then.
        """
        batches = [self.training_batch(part) for part in group]
        forwards = [self._forwards(batch, part) for batch, part in zip(batches, group, strict=True)]
        if len(group) > 1 or self._apart or self._bytes_an_example:
            firsts = [next(forward, None) for forward in forwards]
        else:
            firsts = [self._count_first(forwards[0], batches[0], group[0])]
        filled = []
        for part, first, others in zip(group, firsts, forwards, strict=True):
            slot = slot_of(part.lane)
            filled.append((slot, self._backward(first, others, slot, part.seed)))
        for (slot, values), part in zip(filled, group, strict=True):
            try:
                leave_moments(slot, values)
            except WrongWeight as wrong:
                raise wrong.of_lane(part.lane) from None

    def _count_first(self, forward: Iterator[Values], batch: Batch, part: Part) -> Values | None:
        """The first forward of a lane by itself; notes what an example holds, or that it cannot be counted."""
        found = count_kept(self.model, lambda: next(forward, None))
        if found is None:
            self._apart = True
            return next(self._forwards(batch, part))
        if part.arrays:
            held = found[1] + sum(each.nbytes for each in batch.values() if each.layout is torch.strided)
            self._bytes_an_example = held / examples_in(part.arrays)
        return found[0]

    def training_batch(self, part: Part) -> Batch:
        """A lane's examples as the model takes them in training; `augment_batch` draws the lane's random numbers."""
        if not part.arrays:
            return {}
        batch = self.batch(part.arrays)
        if self._data.augment_batch is None:
            return batch
        augmented = augment_batch(self._data.augment_batch, batch, part.seed ^ OF_AUGMENTATION, self._device)
        return {name: self._in_type(name, tensor) for name, tensor in augmented.items()}

    def _forwards(self, batch: Batch, part: Part) -> Iterator[Values]:
        """Losses, with their graph, and errors of a lane's examples, piece by piece; no piece where it has none."""
        if part.arrays:
            self._seed(part.seed)
            self._load_buffers()
            for piece in self._pieces(batch):
                yield self.objective.losses(self.output(piece), piece)

    def _backward(
        self, first: Values | None, others: Iterator[Values], slot: Slot | DeviceSlot, seed: int
    ) -> list[Values]:
        """A lane's gradient and buffers into its slot; losses and errors of its pieces, without a graph."""
        if first is None:
            self.empty_lane(slot)
            return []
        self._seed(seed ^ OF_BACKWARD)
        whole: Gradients | None = None
        values: list[Values] = []
        for losses, errors in itertools.chain([first], others):
            with users_code("the model's backward"):
                sums = losses.sums if isinstance(losses, Weighted) else losses
                objective = sums.float().sum() * self._scale if self._scaled else sums.sum()
                with self._lane_gradients.taking(slot):
                    found = torch.autograd.grad(objective, self.parameters, allow_unused=True)
            gradients = tuple(map(densify, found))
            whole = gradients if whole is None else tuple(map(add_up, whole, gradients))
            values.append((losses.detach(), errors.detach()))
        self._leave(slot, whole or ())
        self._buffers.leave(slot)
        return values

    def _pieces(self, batch: Batch) -> Iterator[Batch]:
        """The examples, in pieces of at most ``micro_batch``."""
        return pieces_of(batch, self.pack, self._micro_batch)

    def _leave(self, slot: Slot | DeviceSlot, gradients: Sequence[torch.Tensor | None]) -> None:
        """Brings a lane's gradients into its slot, but those that were taken while backward made them."""
        if self._scaled:
            gradients = [None if each is None else each / self._scale for each in gradients]
        self._flag(slot, gradients)
        self._lane_gradients.leave(slot, gradients)

    def _flag(self, slot: Slot | DeviceSlot, gradients: Sequence[torch.Tensor | None]) -> None:
        """Which parameters have a gradient."""
        flags = tuple(gradient is not None for gradient in gradients)
        if isinstance(slot, Slot):
            slot.used[:] = flags
            return
        if flags not in self._flags:
            self._flags[flags] = torch.tensor(flags, dtype=torch.uint8).to(self._device)
        slot.used.copy_(self._flags[flags])

    @property
    def _scale(self) -> torch.Tensor:
        """What losses are multiplied by in this step."""
        assert self._state is not None
        return self._state.scaler[0]

    def _views_of(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Every parameter's view of one of the few vectors that this process ever sees, made once."""
        if vector.data_ptr() not in self._views:
            self._views[vector.data_ptr()] = [place.view(vector) for place in self.layout.parameters]
        return self._views[vector.data_ptr()]

    def _seed(self, seed: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)
        torch.default_generator.manual_seed(seed)

    def _load_buffers(self) -> None:
        assert self._state is not None, "load a state first"
        self._buffers.load(self._state)
