"""A small language model on sequences of different lengths, with a loss over tokens, and its plain twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import streamtrain as st
from streamtrain.values import Arrays

VOCABULARY, LONGEST, NO_TOKEN = 11, 9, -100


class Language(torch.nn.Module):
    """Next token from this one and the mean of those up to it; of its own example where several share a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, 6)
        self.mix = torch.nn.Linear(12, 6)
        self.head = torch.nn.Linear(6, VOCABULARY)

    def forward(
        self, tokens: torch.Tensor, example: torch.Tensor | None = None, position: torch.Tensor | None = None
    ) -> torch.Tensor:
        each = self.embed(tokens)
        if example is None or position is None:
            before = each.cumsum(1) / torch.arange(1, tokens.shape[1] + 1, dtype=each.dtype)[:, None]
        else:
            seen = (example[:, :, None] == example[:, None, :]) & (position[:, :, None] >= position[:, None, :])
            before = (seen.to(each.dtype) / (position[:, :, None] + 1)) @ each
        output: torch.Tensor = self.head(self.mix(torch.cat([each, before], -1)).tanh())
        return output


class Leaning(Language):
    """Leans to one token by what is known of the whole example: fields of examples beside those of rows."""

    def forward(self, *given: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        tokens, example, position, label, lengths = given
        leaning = torch.nn.functional.one_hot(label % VOCABULARY, VOCABULARY) * lengths[:, None].sqrt()
        found: torch.Tensor = super().forward(tokens, example, position)
        return found + leaning[example.clamp(min=0)] * (example >= 0)[..., None]


def token_losses(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of every token, shape (examples, tokens); 0 where there is none."""
    return torch.nn.functional.cross_entropy(output.transpose(1, 2), target, reduction="none", ignore_index=NO_TOKEN)


def token_loss(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
    """Mean over tokens."""
    return st.Weighted(token_losses(output, target).sum(1), (target != NO_TOKEN).sum(1))


def token_error(output: torch.Tensor, target: torch.Tensor) -> st.Weighted:
    """Part of the tokens that are not the likeliest."""
    there = target != NO_TOKEN
    return st.Weighted(((output.argmax(-1) != target) & there).sum(1), there.sum(1))


def sequences(lengths: Sequence[int], seed: int = 0) -> Arrays:
    """Sequences of these numbers of tokens to predict, the rest padded; no dependence on order but their own."""
    generator = np.random.default_rng(seed)
    tokens: NDArray[np.int64] = generator.integers(0, VOCABULARY, (len(lengths), LONGEST + 1))
    tokens[:, 1:] = (tokens[:, :1] * 3 + np.arange(LONGEST) * tokens[:, 1:]) % VOCABULARY
    target = tokens[:, 1:].copy()
    target[np.arange(LONGEST) >= np.asarray(lengths)[:, None]] = NO_TOKEN
    return {"tokens": tokens[:, :-1].copy(), "next": target}


def pack_sequences(folder: Path, examples: int) -> Path:
    """A data set of them, of 0 to `LONGEST` tokens."""
    lengths = np.random.default_rng(5).integers(0, LONGEST + 1, examples)
    folder.mkdir(parents=True)
    np.savez(folder / "tokens.npz", **sequences(lengths.tolist()))  # type: ignore[arg-type]
    st.pack(str(folder / "tokens.npz"), folder / "tokens", st.PackOptions(splits=(0.8, 0.1, 0.1), seed=1))
    return folder / "tokens"


def pack_ragged(folder: Path, examples: int, options: st.PackOptions | None = None, shortest: int = 0) -> Path:
    """The same sequences, each as long as it is."""
    import pyarrow as pa
    import pyarrow.parquet

    lengths = np.random.default_rng(5).integers(shortest, LONGEST + 1, examples).tolist()
    folder.mkdir(parents=True)
    found = sequences(lengths)
    columns = {
        name: pa.array([row[:length] for row, length in zip(each, lengths, strict=True)], pa.list_(pa.int64()))
        for name, each in found.items()
    }
    table = pa.table({**columns, "word": [f"{number}" for number in range(examples)], "label": range(examples)})
    pa.parquet.write_table(table, folder / "tokens.parquet")
    st.pack(folder / "tokens.parquet", folder / "tokens", options or st.PackOptions(splits=(0.8, 0.1, 0.1), seed=1))
    return folder / "tokens"


IN_ROWS = {
    "inputs": ("tokens", "tokens_example", "tokens_position"),
    "collate": st.Pack(("tokens", "next"), length=20),
}
"""Several of them in a row."""


def entry_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of every token, shape (tokens,)."""
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


class Hits:
    """Tokens that are the likeliest, of the whole set."""

    def __init__(self) -> None:
        self.right = self.count = 0

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.right += int((output.argmax(1) == target).sum())
        self.count += len(target)

    def merge(self, other: Hits) -> None:
        self.right += other.right
        self.count += other.count

    def compute(self) -> float:
        return self.right / self.count


PADS = st.Pad("tokens", multiple_of=4), st.Pad("next", value=NO_TOKEN, multiple_of=4)


def language_job(
    url: str, data: Mapping[str, Any] | None = None, model: Callable[[], torch.nn.Module] = Language, **settings: Any
) -> st.Job:
    """Trains it in float64."""
    given = {
        "loss": token_loss,
        "error": token_error,
        "batch_size": 24,
        "precision": "float64",
        "optimizer": st.SGD(lr=0.5, momentum=0.9),
        "tracking": st.Tracking(enabled=False),
        **settings,
    }
    chosen = {"inputs": ("tokens",), "target": "next", **(data or {})}
    return st.Job(st.Data(url, **chosen), model, **given)
