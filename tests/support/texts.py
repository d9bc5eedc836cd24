"""Texts and a tokenizer for them: every word is a token, and each text ends in one more. And rows, naively laid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards import stored_order

WORDS = tuple(f"w{number}" for number in range(50))
END = "<end>"


def random_texts(count: int, seed: int = 0, longest: int = 30) -> list[str]:
    """Texts of 0 to ``longest`` words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(0, longest + 1))) for _ in range(count)]


def ids_of(text: str, first: int = 0) -> list[int]:
    """The ids of a text."""
    return [*(first + WORDS.index(word) for word in text.split()), first + len(WORDS)]


def save_tokenizer(file: Path, first: int = 0, *, cut_at: int | None = None) -> Path:
    """A tokenizer.json; its ids begin at ``first``, and it says that texts are cut and filled up at ``cut_at``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: first + number for number, word in enumerate((*WORDS, END))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, first + len(WORDS))]
    )
    if cut_at is not None:
        tokenizer.enable_truncation(cut_at)
        tokenizer.enable_padding(length=cut_at)
    tokenizer.save(str(file))
    return file


def save_texts(folder: Path, texts: list[str]) -> Path:
    """A file for each, whose names are in their order, in two folders."""
    for number, text in enumerate(texts):
        file = folder / ("a" if number < len(texts) // 2 else "b") / f"{number:05d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def naive_rows(
    ids: Sequence[Sequence[int]], tokens: int, seed: int, counts: Sequence[int]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows in stored order and where texts begin in them, both (rows, tokens), of texts by their ids; all in memory.

    Args:
        counts: texts of each split.
    """
    order = stored_order(seed ^ (1 << 127), len(ids)).tolist()
    rows, starts, of_splits = [], [], []
    for end, count in zip(np.cumsum(counts).tolist(), counts, strict=True):
        texts = [np.asarray(ids[number]) for number in order[end - count : end]]
        stream = np.concatenate(texts)
        begins = np.concatenate([np.arange(len(text)) == 0 for text in texts])
        whole = len(stream) // tokens
        rows.append(stream[: whole * tokens].reshape(whole, tokens))
        starts.append(begins[: whole * tokens].reshape(whole, tokens))
        of_splits.append(whole)
    keys = stored_order(seed, sum(of_splits))  # the order of all rows; each stays in its split
    splits = np.repeat(np.arange(len(counts)), of_splits)[keys]
    keys = keys[np.argsort(splits, kind="stable")]
    return np.concatenate(rows)[keys], np.concatenate(starts)[keys]
