"""Models of every kind that people have, of 4 × 16 numbers an example and 5 classes; what becomes of each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from tests.support.layers import CLASSES, LINE, PLANE, Attention, Headed, Numbered

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


TRAINED: dict[str, Make] = {
    "tied weights": tied,
    "a frozen body in evaluation": frozen_body,
    "all in evaluation": lambda: moved(NormKept(), lambda m: m.eval()),
    "a train of its own": NormKept,
    "frozen half": frozen(lambda: matrix().half(), lambda w: w.float()),
    "frozen bfloat16": frozen(lambda: matrix().bfloat16(), lambda w: w.float()),
    "frozen float8": frozen(lambda: matrix().to(torch.float8_e4m3fn), lambda w: w.float()),
    "frozen float64": frozen(lambda: matrix().double(), lambda w: w.float()),
    "frozen int8": frozen(lambda: (matrix() * 100).to(torch.int8), lambda w: w.float() / 100),
    "frozen complex64": frozen(lambda: matrix().to(torch.complex64), lambda w: w.real),
    "lazy, called in its function": lazily,
    "a sparse embedding": lambda: Headed(Numbered(nn.Embedding(8, 4, sparse=True)), LINE),
    "a sparse bag of embeddings": lambda: Headed(Numbered(nn.EmbeddingBag(8, 4, sparse=True)), LINE),
    "weight norm": parametrized(parametrizations.weight_norm),
    "spectral norm": parametrized(parametrizations.spectral_norm),
    "orthogonal": parametrized(parametrizations.orthogonal),
    "a parametrization of its own": parametrized(lambda m: parametrize.register_parametrization(m, "weight", Halved())),
    "spectral norm by hooks": parametrized(torch.nn.utils.spectral_norm),
    "forward hooks": hooked(hook_forward),
    "backward hooks": hooked(hook_backward, part=3),
    "a hook on a parameter": hooked(lambda part: part.weight.register_hook(lambda gradient: gradient * 2)),
    "hooks on the state dict": hooked(hook_state_dict),
    "checkpoints": checkpointed(reentrant=False),
    "a function with its own backward": lambda: With(lambda _, h: Square.apply(h)),
    "compiled": lambda: torch.compile(mlp(), backend="eager"),
    "scripted": scripted,
    "traced by fx": lambda: torch.fx.symbolic_trace(mlp()),
    "DataParallel": lambda: nn.DataParallel(mlp()),
    "counts and means in buffers": lambda: With(count_in_place, counting),
    "buffers bound anew": lambda: With(count_anew, counting),
    "a cached table": lambda: With(cached_table),
    "a constant buffer that is not saved": buffered(lambda: torch.arange(3), persistent=False),
    "a mask of infinities": buffered(lambda: torch.full((3, 3), float("-inf")).triu(1)),
    "an empty buffer": buffered(lambda: torch.empty(0)),
    "an unused parameter": lambda: With(lambda _, h: h, parameter("unused", lambda: torch.ones(3))),
    "a parameter that is one number": lambda: With(
        lambda m, h: h * m.scale, parameter("scale", lambda: torch.tensor(1.5))
    ),
    "an empty parameter": lambda: With(lambda _, h: h, parameter("empty", lambda: torch.empty(0))),
    "lists of parameters": lambda: With(lambda m, h: h * m.scales[0] + m.shifts["one"], lists),
    "channels last": lambda: Headed(nn.Conv2d(4, 4, 1), PLANE).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "noise from torch": while_training(lambda _, h: h + torch.randn_like(h)),
    "a random path": while_training(lambda _, h: h if torch.rand(()) < 0.5 else h * h),
    **{f"a buffer of {name}": buffered(of_type(name)) for name in DTYPES},
}

EVAL, TRAIN = "the model in evaluation mode", "the model in training mode: expected the same"
REFUSED: dict[str, tuple[Make, str]] = {
    "trained half": (cast(torch.float16), "parameter '1.weight': expected torch.float32, .* found torch.float16"),
    "trained bfloat16": (cast(torch.bfloat16), "parameter '1.weight': expected torch.float32"),
    "trained float64": (cast(torch.float64), "parameter '1.weight': expected torch.float32.* or set precision"),
    "trained complex": (
        lambda: With(lambda m, h: h * m.w.real, parameter("w", lambda: torch.ones(16, dtype=torch.complex64))),
        "parameter 'w': expected torch.float32, .* found torch.complex64",
    ),
    "a sparse parameter": (
        lambda: With(lambda _, h: h, parameter("w", lambda: torch.eye(3).to_sparse())),
        "parameter 'w': expected a dense tensor .* found torch.sparse_coo",
    ),
    "a subclass of tensors": (subclassed, "parameter '1.weight': expected a dense tensor .* found Ours"),
    "frozen sparse": (frozen(lambda: matrix().to_sparse(), lambda w: w.to_dense()), "'held' of its state dict"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), "parameter '1.weight': expected a shape"),
    "on the meta device": (lambda: mlp().to("meta"), "parameter '1.weight': expected values, found none, on the meta"),
    "quantized": (quantized, "'1.0._packed_params.* of its state dict: expected a tensor"),
    "a quantized buffer": (buffered(quantized_buffer), "buffer 'held': expected a dense tensor"),
    "a sparse buffer": (buffered(lambda: torch.eye(3).to_sparse()), "buffer 'held': expected a dense tensor"),
    "a csr buffer": (buffered(lambda: torch.eye(3).to_sparse_csr()), "buffer 'held': expected a dense tensor"),
    "an expanded buffer": (buffered(lambda: torch.ones(1).expand(4)), "buffer 'held': expected one that can be copied"),
    "a buffer of complex32": (buffered(of_type("complex32")), "'held' of its state dict.*complex32"),
    "a buffer of complex128": (buffered(of_type("complex128")), "'held' of its state dict.*complex128"),
    "extra state": (lambda: nn.Sequential(nn.Flatten(), Extra(64, CLASSES)), "'1._extra_state' of its state dict"),
    "a hook after accumulation": (
        hooked(lambda part: part.weight.register_post_accumulate_grad_hook(lambda _: None)),
        "parameter '1.weight': expected no hook after",
    ),
    "re-entrant checkpoints": (checkpointed(reentrant=True), "the model's backward failed: .*use_reentrant"),
    "dropout while measured": (AlwaysTraining, EVAL),
    "functional dropout": (lambda: With(lambda _, h: nn.functional.dropout(h)), EVAL),
    "adapters merged for evaluation": (Merging, "model, parameter 'first.weight': expected it as before"),
    "noise from numpy": (while_training(lambda _, h: h * np.random.rand()), TRAIN),
    "noise from random": (while_training(lambda _, h: h * random.random()), TRAIN),
    "noise from a generator of its own": (
        lambda: moved(while_training(own_noise)(), lambda m: setattr(m, "own", torch.Generator())),
        TRAIN,
    ),
    "a hidden count": (while_training(hidden_count), TRAIN),
    "a hidden count in evaluation": (lambda: With(hidden_count), EVAL),
    "a buffer made in forward": (lambda: With(new_buffer), "model, buffer 'late': .*found a new one"),
    "a buffer that grows": (
        lambda: With(grown_buffer, lambda m: m.register_buffer("seen", torch.ones(1))),
        "model, buffer 'seen': expected shape",
    ),
    "a changing buffer that is not saved": (
        lambda: With(count_unsaved, lambda m: m.register_buffer("n", torch.zeros(()), persistent=False)),
        "model, buffer 'n': expected a buffer that training changes to be in the state dict",
    ),
    "weights clamped in forward": (lambda: With(clamp_weights), "parameter 'first.weight': expected it as before"),
    "an embedding of bounded norm": (
        lambda: Headed(Numbered(nn.Embedding(8, 4, max_norm=0.1)), LINE),
        "parameter 'body.layer.weight': expected it as before",
    ),
    "a teacher that follows in forward": (
        lambda: With(teach, parameter("teacher", lambda: torch.ones(16), trained=False)),
        "model, parameter 'teacher': expected it as before",
    ),
    "a mode set in forward": (lambda: With(turn_mode), "model, part 'first': expected to keep its mode"),
    "statistics of the batch in evaluation": (
        lambda: Headed(nn.BatchNorm1d(4, track_running_stats=False), LINE),
        "the model: expected in evaluation mode an output of each example by itself",
    ),
    "attention over the batch": (
        lambda: Headed(Attention(batch_first=False), LINE),
        "the model: expected in evaluation mode an output of each example by itself",
    ),
    "a model that returns an object": (
        lambda: With(lambda _, h: h, lambda m: m.register_forward_hook(lambda *a: {"logits": a[2]})),
        "loss 'cross_entropy': expected an output of shape .examples, classes., found dict",
    ),
}
