"""Which function does a docstring describe? Contrastive pairs: the others of the whole minibatch are the wrong answers.

    python jobs/text/docstrings_data.py data/docstrings
    streamtrain pack data/docstrings/pairs.parquet data/docstrings/packed --split-column split
    streamtrain train jobs/text/docstrings.py

Docstrings and functions become vectors of length 1, and each is to be nearest to its own. The loss is over the
minibatch of all workers, each of which holds its own part only; the bits are the same for any number of them.
"""

import math

import torch
from torch.nn.functional import cross_entropy, normalize

import streamtrain as st

VOCABULARY, WIDTH = 8192, 96


class Towers(torch.nn.Module):
    """Vectors of docstrings and of functions, (examples, WIDTH) of length 1, and how sharply they are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.weights = torch.nn.Embedding(VOCABULARY, 2)
        self.says = torch.nn.Linear(WIDTH, WIDTH)
        self.does = torch.nn.Linear(WIDTH, WIDTH)
        self.sharpness = torch.nn.Parameter(torch.tensor(math.log(10.0)))
        self.dropout = torch.nn.Dropout(0.3)
        torch.nn.init.zeros_(self.weights.weight)
        for layer in (self.says, self.does):  # at first, texts are near that have words in common
            torch.nn.init.eye_(layer.weight)

    def forward(self, says: torch.Tensor, does: torch.Tensor) -> dict[str, torch.Tensor]:
        texts = zip((says.long(), does.long()), (self.says, self.does), range(2), strict=True)
        left, right = (normalize(self.dropout(layer(self.mean(words, tower)))) for words, layer, tower in texts)
        return {"left": left * self.sharpness.exp(), "right": right}

    def mean(self, words: torch.Tensor, tower: int) -> torch.Tensor:
        """Mean vector of a text's words; how much each counts is learned, for each tower by itself."""
        counts = self.weights(words)[:, :, tower].masked_fill(words == 0, -math.inf).softmax(1)
        return (counts[:, :, None] * self.words(words)).sum(1)


def similarities(output: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each docstring with each function of the minibatch."""
    return output["left"] @ output["right"].T


def contrastive(output: dict[str, torch.Tensor], _: torch.Tensor) -> torch.Tensor:
    """Mean of both ways: the right function among all of the minibatch, the right docstring among all."""
    each = similarities(output)
    own = torch.arange(len(each), device=each.device)
    return (cross_entropy(each, own, reduction="none") + cross_entropy(each.T, own, reduction="none")) / 2


def another_is_nearer(output: dict[str, torch.Tensor], _: torch.Tensor) -> torch.Tensor:
    """Whether another function is nearer to a docstring than its own."""
    each = similarities(output)
    return (each.argmax(1) != torch.arange(len(each), device=each.device)).float()


job = st.Job(
    data=st.Data("data/docstrings/packed", inputs=("says", "does"), target="says"),
    model=Towers,
    loss=contrastive,
    error=another_is_nearer,
    error_unit="%",
    loss_over="minibatch",
    mode=st.Epochs(max_passes=6, reshuffle="examples"),
    optimizer=st.AdamW(lr=2e-3, weight_decay=0.1),
    schedule=st.Schedule("cosine", warmup_steps=50),
    batch_size=128,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
