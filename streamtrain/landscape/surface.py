"""The loss surface of a job on some examples: loss, gradient and Hessian-vector products at any flat vector.

In float64 on the CPU, in evaluation mode (no dropout, running statistics of BatchNorm), examples in pieces, so that
memory holds the graph of one piece only. A Hessian-vector product costs about two gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job, Weighted
from streamtrain.model.gradient import Batch, Gradient
from streamtrain.order import evaluation_slices
from streamtrain.prepare.plan import Plan
from streamtrain.values import Selection

EVALUATION_SLICE = 500
"""Examples of a piece."""


class Surface:
    """See the module.

    Args:
        plan: of the run.
        examples: how many training examples, spread evenly over the stored order.

    Attributes:
        examples: how many there are.
        model: the job's, where `stand` or the last call left it.
        layout: of it.
    """

    def __init__(self, plan: Plan, examples: int) -> None:
        self._plan = plan
        job: Job = dataclasses.replace(plan.job, device="cpu", precision="float64")
        self._gradient = Gradient(job)
        self.model = self._gradient.model
        self.layout = self._gradient.layout
        self.model.eval()
        self._frozen = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        reader = plan.reader("train")
        self._readers = {"train": reader}
        shares = plan.by_share("train", plan.ranges, examples)
        slices = [each for own, count in shares for each in evaluation_slices(own, count, EVALUATION_SLICE)]
        self._pieces = [self._gradient.batch(reader.select(plan.select("train", *each))) for each in slices]
        self.examples = sum(stop - start for start, stop in slices)
        self._weight: float | None = None

    def stand(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Makes a state dict's tensors the model's; its trainable parameters as one vector.

        Raises:
            ConfigError: they are not of the job's model. Frozen parameters may be missing.
        """
        own = dict(self.model.named_buffers())
        pairs = {n for n, t in tensors.items() if n in own and own[n].is_complex() and not t.is_complex()}
        tensors = {name: torch.view_as_complex(t) if name in pairs else t for name, t in tensors.items()}
        try:
            self.model.load_state_dict({**self._frozen, **tensors})
        except RuntimeError as error:
            found = " ".join(str(error).split())[:200]
            do = "name the job file that the run was trained with"
            raise ConfigError(
                complaint("probe", expected="parameters of the job's model", found=found, do=do)
            ) from None
        return self._vector(self._parameters)

    def loss(self, at: torch.Tensor) -> float:
        """Mean loss at the vector ``at``."""
        self._move_to(at)
        with torch.no_grad():
            return sum(float(loss) for loss in self._losses())

    def gradient(self, at: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean loss."""
        self._move_to(at)
        total = torch.zeros_like(at)
        for loss in self._losses():
            total += self._vector(torch.autograd.grad(loss, self._parameters, materialize_grads=True))
        return total

    def gradient_of(self, at: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Gradient of the mean loss of other examples."""
        self._move_to(at)
        loss = self.mean_loss(batch)
        return self._vector(torch.autograd.grad(loss, self._parameters, materialize_grads=True))

    def batch_of(self, split: str, numbers: Selection) -> Batch:
        """Examples of a split as the model takes them; without those that are passed over."""
        if split not in self._readers:
            self._readers[split] = self._plan.reader(split)
        return self._gradient.batch(self._readers[split].take(numbers.each()))

    def hessian_times(self, at: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Product of the Hessian at ``at`` with a vector (Pearlmutter 1994)."""
        self._move_to(at)
        total = torch.zeros_like(at)
        for loss in self._losses():
            grads = torch.autograd.grad(loss, self._parameters, create_graph=True, materialize_grads=True)
            slope = torch.cat([grad.flatten() for grad in grads]) @ direction
            if slope.requires_grad:
                total += self._vector(torch.autograd.grad(slope, self._parameters, materialize_grads=True))
        return total

    def batches(self) -> Iterator[Batch]:
        """The examples, in pieces."""
        yield from self._pieces

    def mean_loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss of some examples where the model stands, with its graph."""
        total, weight = self._summed(batch)
        return total / weight

    def _losses(self) -> Iterator[torch.Tensor]:
        """Each piece's part of the mean loss; the weights, which are the same everywhere, are taken once."""
        if self._weight is None:
            with torch.no_grad():
                self._weight = sum(self._summed(batch)[1] for batch in self._pieces)
        for batch in self._pieces:
            yield self._summed(batch)[0] / self._weight

    def _summed(self, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the losses, with its graph, and what they weigh."""
        losses = self._gradient.objective.losses(self._gradient.output(batch), batch)[0]
        if isinstance(losses, Weighted):
            return losses.sums.sum(), float(losses.weights.sum())
        return losses.sum(), len(losses)

    @staticmethod
    def _vector(tensors: list[torch.nn.Parameter] | tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    def _move_to(self, at: torch.Tensor) -> None:
        torch.nn.utils.vector_to_parameters(at, self._parameters)
