"""Frozen parameters: once on a host, in the block that its workers share, however many they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamtrain.errors import JobError, complaint


class Frozen:
    """The parameters of a model that do not move, and the way into a shared block and out of it.

    Each worker has built the same ones. Whoever makes a block writes its own into it; everybody then looks at the
    block's and drops its own. Sparse ones, and those whose elements do not lie in a row, stay where they are.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad and parameter.layout == torch.strided and parameter.is_contiguous()
        }

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each."""
        return tuple(parameter.nbytes for parameter in self._parameters.values())

    def write(self, parts: Sequence[torch.Tensor]) -> None:
        """Copies each to its part of a block, tensors of bytes of `sizes`."""
        for parameter, part in zip(self._parameters.values(), parts, strict=True):
            part.copy_(_bytes_of(parameter))

    def share(self, parts: Sequence[torch.Tensor]) -> None:
        """From now on the model's are the block's.

        Raises:
            JobError: the block has other values than this worker's model.
        """
        for (name, parameter), part in zip(self._parameters.items(), parts, strict=True):
            if not torch.equal(_bytes_of(parameter), part):
                raise JobError(
                    complaint(
                        "model",
                        expected="frozen parameters that are the same in every worker",
                        found=f"other values of {name} in two of a host",
                        do="make them of the seed or of a file, not of what differs from process to process",
                    )
                )
            parameter.data = part.view(parameter.dtype).view(parameter.shape)


def _bytes_of(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().reshape(-1).view(torch.uint8)
