"""Gradients through time: how fast they vanish or explode with distance (Deep Learning, 8.2.5 and 10.7).

Through t steps a gradient is multiplied by about λᵗ, with λ the recurrent matrix' spectral radius (times the slope of
the non-linearity). Measured on the first recurrent layer of a model: norm of the loss's gradient with respect to the
layer's input at each time, root mean square over the examples. Meant for losses at the end of the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ThroughTime:
    """``norms[d]`` is the gradient's norm ``d`` steps before the end; ``growth`` its factor a step, fitted to log."""

    norms: tuple[float, ...]
    growth: float
    spectral_radius: float


def through_time(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> ThroughTime | None:
    """``None`` where the model has no recurrent layer.

    Args:
        loss: calls the model and gives the mean loss.
    """
    layer = next((module for module in model.modules() if isinstance(module, torch.nn.RNNBase)), None)
    if layer is None:
        return None
    inputs: list[torch.Tensor] = []

    def note(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        inputs.append(arguments[0].detach().requires_grad_())
        return (inputs[-1], *arguments[1:])

    hook = layer.register_forward_pre_hook(note)
    try:
        (gradient,) = torch.autograd.grad(loss(), inputs)
    finally:
        hook.remove()
    times_first = gradient.transpose(0, 1) if layer.batch_first else gradient
    norms = times_first.flatten(1).norm(dim=1).flip(0) * math.sqrt(times_first.shape[1])
    found = tuple(float(norm) for norm in norms)
    return ThroughTime(found, _growth(norms), spectral_radius(layer))


def spectral_radius(layer: torch.nn.RNNBase) -> float:
    """Largest absolute eigenvalue of the first layer's recurrent matrix; of gated layers, of the candidate's."""
    weight = layer.get_parameter("weight_hh_l0").detach().double()
    size = weight.shape[1]
    candidate = {"LSTM": 2, "GRU": 2}.get(layer.mode, 0)
    return float(torch.linalg.eigvals(weight[candidate * size : (candidate + 1) * size]).abs().max())


def _growth(norms: torch.Tensor) -> float:
    """Least-squares slope of log norm over distance, as a factor."""
    positive = norms > 0
    distance = torch.arange(len(norms), dtype=torch.float64)[positive]
    logs = norms[positive].double().log()
    if len(logs) < 2:
        return math.nan
    distance = distance - distance.mean()
    return math.exp(float(distance @ (logs - logs.mean()) / (distance @ distance)))
