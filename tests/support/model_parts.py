"""What models of every kind are made of: small networks of 4 × 16 numbers an example and 5 classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.support.layers import CLASSES, LINE

Make = Callable[[], nn.Module]
Change = Callable[[Any, torch.Tensor], torch.Tensor]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class With(nn.Module):
    """A small network whose hidden numbers a function changes; ``hold`` gives the module what the function needs."""

    def __init__(
        self, change: Callable[[Any, torch.Tensor], torch.Tensor], hold: Callable[[Any], Any] = lambda _: None
    ) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 16), nn.Linear(16, CLASSES)
        self.change = change
        hold(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.change(self, torch.tanh(self.first(x.flatten(1)))))
        return output


def buffered(buffer: Callable[[], torch.Tensor], *, persistent: bool = True) -> Make:
    """Holds a buffer and leaves it alone."""
    return lambda: With(lambda _, h: h, lambda m: m.register_buffer("held", buffer(), persistent=persistent))


def frozen(values: Callable[[], torch.Tensor], use: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """Holds a parameter that is not trained, and uses it as a 16 × 16 matrix."""

    def hold(module: Any) -> None:
        module.held = nn.Parameter(values(), requires_grad=False)

    return lambda: With(lambda m, h: h @ use(m.held), hold)


def cast(dtype: torch.dtype) -> Make:
    return lambda: mlp().to(dtype)


def matrix() -> torch.Tensor:
    return torch.randn(16, 16) / 4


def tied() -> nn.Module:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), first, nn.ReLU(), second, nn.Linear(16, CLASSES))


def frozen_body() -> nn.Module:
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
    body.requires_grad_(False).eval()
    return nn.Sequential(body, nn.ReLU(), nn.Linear(16, CLASSES))


def moved(module: nn.Module, change: Callable[[nn.Module], Any]) -> nn.Module:
    change(module)
    return module


def hooked(hook: Callable[[Any], Any], part: int = 1) -> Make:
    """The network with hooks on one of its layers."""
    return lambda: moved(mlp(), lambda m: hook(m[part]))  # type: ignore[index]


def hook_forward(part: Any) -> None:
    part.register_forward_pre_hook(lambda _, given: (given[0] * 0.5,))
    part.register_forward_hook(lambda _, given, made: made * 1.5)


def hook_backward(part: Any) -> None:
    part.register_full_backward_pre_hook(lambda _, given: (given[0] * 2,))
    part.register_full_backward_hook(lambda _, made, given: (made[0] * 2,))


def hook_state_dict(part: Any) -> None:
    part.register_state_dict_post_hook(lambda *_: None)
    part.register_load_state_dict_pre_hook(lambda *_: None)


def parameter(name: str, values: Callable[[], torch.Tensor], *, trained: bool = True) -> Callable[[Any], None]:
    """Gives a module a parameter."""

    def hold(module: Any) -> None:
        module.register_parameter(name, nn.Parameter(values(), requires_grad=trained))

    return hold


def lists(module: Any) -> None:
    module.scales = nn.ParameterList([torch.ones(16)])
    module.shifts = nn.ParameterDict({"one": torch.zeros(16)})


def while_training(change: Change) -> Make:
    """Changes the hidden numbers in training mode alone."""
    return lambda: With(lambda m, h: change(m, h) if m.training else h)


def own_noise(module: Any, h: torch.Tensor) -> torch.Tensor:
    return h * torch.rand(16, generator=module.own)


def count_unsaved(module: Any, h: torch.Tensor) -> torch.Tensor:
    if module.training:
        module.n.add_(1)
    return h


def turn_mode(module: Any, h: torch.Tensor) -> torch.Tensor:
    module.first.train(not module.first.training)
    return h


class NormKept(nn.Module):
    """Keeps its BatchNorm in evaluation by a `train` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)

    def train(self, mode: bool = True) -> NormKept:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.drop(self.norm(self.first(x.flatten(1)))))
        return output


class AlwaysTraining(NormKept):
    """Drops out while it is measured, too."""

    def train(self, mode: bool = True) -> AlwaysTraining:
        nn.Module.train(self, True)
        return self


class Merging(NormKept):
    """Adds an adapter to its frozen weights for evaluation, and takes it away again."""

    def __init__(self) -> None:
        super().__init__()
        self.first.requires_grad_(False)
        self.adapter = nn.Parameter(torch.randn(16, 64) / 8)
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        nn.Module.train(self, mode)
        if mode == self.merged:
            self.first.weight.data += self.adapter.data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = 0 if self.merged else x.flatten(1) @ self.adapter.T
        output: torch.Tensor = self.head(self.first(x.flatten(1)) + added)
        return output


class Square(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return 2 * x * gradients[0]


def checkpointed(*, reentrant: bool) -> Make:
    def hold(module: Any) -> None:
        module.inner = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3), nn.ReLU())

    return lambda: With(lambda m, h: checkpoint(m.inner, h, use_reentrant=reentrant), hold)


def counting(module: Any) -> None:
    module.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    module.register_buffer("mean", torch.zeros(16, dtype=torch.float64))


def count_in_place(module: Any, h: torch.Tensor) -> torch.Tensor:
    if module.training:
        module.calls += 1
        module.mean.lerp_(h.detach().double().mean(0), 0.1)
    return h * (1 + module.mean.float())


def count_anew(module: Any, h: torch.Tensor) -> torch.Tensor:
    """Binds other tensors to its buffers' names, in evaluation too."""
    module.calls = module.calls + 1
    module.mean = 0.9 * module.mean + 0.1 * h.mean(0).double()
    return h * (1 + module.mean.detach().float()) if module.training else h


def hidden_count(module: Any, h: torch.Tensor) -> torch.Tensor:
    module.calls = getattr(module, "calls", 0) + 1
    return h * module.calls


def new_buffer(module: Any, h: torch.Tensor) -> torch.Tensor:
    module.register_buffer("late", torch.ones(3))
    return h


def grown_buffer(module: Any, h: torch.Tensor) -> torch.Tensor:
    module.seen = torch.cat([module.seen, h.detach()[:1, :1].flatten()])
    return h


def clamp_weights(module: Any, h: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        module.first.weight.clamp_(-0.05, 0.05)
    return h


def teach(module: Any, h: torch.Tensor) -> torch.Tensor:
    module.teacher.data.lerp_(h.detach().mean(0), 0.1)
    return h + module.teacher


def cached_table(module: Any, h: torch.Tensor) -> torch.Tensor:
    """Keeps a table of positions from its first call on, as rotary embeddings do."""
    if not hasattr(module, "table"):
        module.table = torch.linspace(0.5, 1.5, 16)
    return h * module.table


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        assert state["version"] == 1


class Ours(torch.Tensor):
    """A subclass of tensors."""


def subclassed() -> nn.Module:
    module = mlp()
    module[1].weight = nn.Parameter(module[1].weight.detach().as_subclass(Ours))
    return module


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu()


def parametrized(register: Callable[[nn.Module], Any]) -> Make:
    return lambda: moved(
        With(lambda m, h: m.inner(h), lambda m: setattr(m, "inner", nn.Linear(16, 16))), lambda m: register(m.inner)
    )


def quantized() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(64, 16)), {nn.Linear})
    return nn.Sequential(nn.Flatten(), body, nn.Linear(16, CLASSES))


def quantized_buffer() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def scripted() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.2), nn.Linear(16, CLASSES))
        module: nn.Module = torch.jit.script(layers)
    return module


def lazily() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES))
    module(torch.zeros(2, *LINE))
    return module


DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "complex64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)


def of_type(name: str) -> Callable[[], torch.Tensor]:
    """Numbers of a type that another could not hold, where it has such."""
    dtype = getattr(torch, name)
    if dtype.is_complex:
        return lambda: torch.complex(torch.tensor([1 / 3, -0.0]), torch.tensor([2 / 3, float("inf")])).to(dtype)
    if dtype.is_floating_point:
        return lambda: torch.tensor([1 / 3, -0.0, 1e-3, 3.0], dtype=torch.float64).to(dtype)
    if dtype == torch.bool:
        return lambda: torch.tensor([True, False, True])
    most = torch.iinfo(dtype).max
    return lambda: torch.from_numpy(np.array([most, 1, 0], dtype=name))
