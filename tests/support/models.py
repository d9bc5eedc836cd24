"""Models of every kind that people have, and what becomes of each: it is trained, or refused by the trial."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from tests.support.layers import CLASSES, LINE, PLANE, Attention, Headed, Numbered
from tests.support.model_parts import (
    DTYPES,
    AlwaysTraining,
    Extra,
    Halved,
    Make,
    Merging,
    NormKept,
    Square,
    With,
    buffered,
    cached_table,
    cast,
    checkpointed,
    clamp_weights,
    count_anew,
    count_in_place,
    count_unsaved,
    counting,
    frozen,
    frozen_body,
    grown_buffer,
    hidden_count,
    hook_backward,
    hook_forward,
    hook_state_dict,
    hooked,
    lazily,
    lists,
    matrix,
    mlp,
    moved,
    new_buffer,
    of_type,
    own_noise,
    parameter,
    parametrized,
    quantized,
    quantized_buffer,
    scripted,
    subclassed,
    teach,
    tied,
    turn_mode,
    while_training,
)

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
    "frozen conjugate": (
        frozen(lambda: torch.ones(16, 16, dtype=torch.complex64).conj(), lambda w: w.real),
        "parameter 'held': expected values as they lie in memory, found a conjugate's view",
    ),
    "a negated buffer": (
        buffered(lambda: torch.ones(4, dtype=torch.complex64).conj().imag),
        "buffer 'held': expected values as they lie in memory, found a negative's view",
    ),
    "a frozen view of what is trained": (
        lambda: moved(mlp(), lambda m: m.register_parameter("tied", nn.Parameter(m[1].weight.data[:3], False))),
        "model, parameter '.*': expected memory of its own, found that of parameter '.*'; tie them by one Parameter",
    ),
    "weights tied by their data": (
        lambda: moved(mlp(), lambda m: m.register_parameter("tied", nn.Parameter(m[1].weight.data))),
        "model, parameter '.*': expected memory of its own, found that of parameter '.*'",
    ),
    "a buffer that is a view of a weight": (
        lambda: moved(mlp(), lambda m: m.register_buffer("tied", m[1].weight.data.view(-1))),
        "model, buffer 'tied': expected memory of its own, found that of parameter '1.weight'",
    ),
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
