"""Parameters that a run begins with, in place of those that the model's own function draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from streamtrain.errors import ConfigError, complaint

MOST_NAMED = 5
"""Tensors that a message names."""


class InitialParameters:
    """A model's function, and tensors that `build_model` fills the model with, in whatever type it computes.

    Args:
        function: returns the model.
        tensors: a state dict; frozen parameters may be missing, which stay as the function makes them.
    """

    def __init__(self, function: Callable[[], torch.nn.Module], tensors: Mapping[str, torch.Tensor]) -> None:
        self._function = function
        self.tensors = dict(tensors)
        self.__module__ = str(getattr(function, "__module__", __name__))  # where the job file is looked for
        self.__name__ = str(getattr(function, "__name__", type(function).__name__))  # as the run's setting is shown

    def __call__(self) -> torch.nn.Module:
        """What the function returns, not yet filled."""
        return self._function()

    def fill(self, model: torch.nn.Module) -> None:
        """Makes the tensors the model's, each in the type that the model has it in."""
        model.load_state_dict({**_frozen(model), **self.tensors})


def fitted(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Those of the tensors that a state dict of the model has, in the form that it has them in.

    Args:
        tensors: of a state dict, or of a checkpoint, whose complex tensors are pairs.
        where: they come from, for the message.

    Raises:
        ConfigError: names or shapes do not fit; it names them.
    """
    own = model.state_dict()
    beside = {name for name, _ in model.named_buffers()} - own.keys()  # a checkpoint has all buffers
    found = {name: _as_own(own.get(name), tensor) for name, tensor in tensors.items() if name not in beside}
    wrong = [f"no {name}" for name in own if name not in found and name not in _frozen(model)]
    wrong += [f"{name}, which the model has not" for name in sorted(found.keys() - own.keys())]
    wrong += [
        f"{name} of shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in sorted(found.items())
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - MOST_NAMED:,} more" if len(wrong) > MOST_NAMED else ""
        expected = "the names and shapes of the job's model"
        do = "give parameters of this model, or rename them in the file"
        raise ConfigError(complaint(where, expected=expected, found="; ".join(wrong[:MOST_NAMED]) + more, do=do))
    return found


def _frozen(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _as_own(own: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor:
    is_pairs = own is not None and own.is_complex() and not tensor.is_complex()
    return torch.view_as_complex(tensor) if is_pairs else tensor
