"""Rows of tokens: the texts of each split in random order, laid end to end and cut every so many tokens.

The texts go through the same shuffle as examples do, with keys of their own, so any range of a split's tokens is a
range of its texts. A row is then an example like any other: `pack` shuffles the rows too, since those of a long text
would stand side by side. What is left at the end of a split is shorter than a row, left out and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import SourceError, complaint
from streamtrain.packing.options import PackOptions
from streamtrain.packing.shuffling.phases import Phases
from streamtrain.packing.shuffling.runs import bad_examples
from streamtrain.packing.shuffling.runs.sorted_runs import Runs, run_folder
from streamtrain.packing.shuffling.scatter import Scatter
from streamtrain.packing.sources.source import BATCH_BYTES, Batch, Column, Example, Source
from streamtrain.packing.splitting import Assigned, assigned, split_counts
from streamtrain.packing.tokens.tokenized_texts import OF_NAMES, PLACE, STARTS, TOKENS, Texts, token_encoders, tokenized
from streamtrain.shards.codec import FieldNotes
from streamtrain.shards.manifest import FRACTIONS, SPLITS
from streamtrain.shards.origins import FOLDER

OF_TEXTS = 1 << 127
"""Of the key that shuffles the texts, beside the seed. By one key for both, the rows of texts that are as long as a row
would be permuted twice by the same permutation, whose square is not uniform."""
STEP = 1 << 20
"""Texts whose lengths are read at once."""


@dataclass(frozen=True)
class Part:
    """Rows ``[first, first + rows)``, of one split; their tokens begin at ``begin`` of all tokens."""

    split: str
    first: int
    rows: int
    begin: int


@dataclass(frozen=True)
class TokenRows:
    """Reads rows; it travels to other processes, so it holds no open files.

    Attributes:
        runs: of the texts.
        ends: file with the number of tokens up to the end of each text, in stored order; int64.
        tokens: of a row.
        dtype: of a token.
        parts: of all rows, one after the other.
    """

    runs: Runs
    ends: Path
    tokens: int
    dtype: np.dtype[Any]
    parts: tuple[Part, ...]

    def batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        """The rows ``[start, stop)``, some at a time."""
        ends = np.memmap(self.ends, np.int64, "r")
        step = max(1, BATCH_BYTES // (self.tokens * self.dtype.itemsize))
        for part in self.parts:
            last = part.first + part.rows if stop is None else min(stop, part.first + part.rows)
            for row in range(max(start, part.first), last, step):
                begin = part.begin + (row - part.first) * self.tokens
                yield self._batch(ends, begin, min(step, last - row))

    def examples(self, start: int) -> Iterator[Example]:
        """The rows from ``start`` on."""
        for batch in self.batches(start, None):
            for number in range(len(batch)):
                yield batch.place(number), {name: values[number] for name, values in batch.values.items()}

    def _batch(self, ends: NDArray[np.int64], begin: int, rows: int) -> Batch:
        """So many rows, of the tokens from ``begin`` on."""
        end = begin + rows * self.tokens
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, end, side="left")) + 1
        borders = np.concatenate([ends[first - 1 : first] if first else np.zeros(1, np.int64), ends[first:last]])
        window = self.runs.window(first, last)
        whole = window.ragged(TOKENS).take(window.order).content.view(self.dtype)
        tokens = whole[begin - borders[0] : end - borders[0]].reshape(rows, self.tokens)
        starts = np.zeros(rows * self.tokens, np.bool_)
        begun = borders[:-1]
        starts[begun[(begun >= begin) & (begun < end)] - begin] = True
        places = window.ragged(PLACE).take(window.order)

        def place(number: int) -> str:
            token = begin + number * self.tokens
            text = int(np.searchsorted(borders, token, side="right")) - 1
            return f"{places[text].decode(errors=OF_NAMES)}, token {token - int(borders[text])}"

        return Batch({TOKENS: tokens, STARTS: starts.reshape(rows, self.tokens)}, place)


def in_token_rows(texts: Texts, options: PackOptions, folder: Path, phases: Phases) -> tuple[Source, PackOptions]:
    """The source of the rows of tokens, and the options with which it is packed.

    Args:
        texts: that become tokens.
        options: of the texts.
        folder: where the tokens lie meanwhile, and the data set is made.
        phases: does the tokenizing.

    Raises:
        SourceError: a text that cannot be taken, no text, or a split without as many tokens as a row has.
    """
    assert options.tokens is not None
    splits = assigned(texts.source, options)
    runs, left_out = _shuffled(texts, options, splits, folder, phases)
    counts = _counts(texts.source.name, runs, splits, options)
    ends = _token_ends(runs, texts.tokenizer.dtype.itemsize)
    file = folder / "token_ends"
    file.write_bytes(ends.tobytes())
    parts, counted = _cut(texts.source.name, ends, counts, options.tokens)
    if splits is not None and splits.repeated:
        counted["texts that repeat an earlier one, left out"] = splits.repeated
    rows = TokenRows(runs, file, options.tokens, texts.tokenizer.dtype, parts)
    kept = folder / "data" / FOLDER / "tokenizer.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(texts.tokenizer.file.read_bytes())
    count = sum(part.rows for part in parts)
    source = Source(
        texts.source.name,
        rows.examples,
        count,
        batches=rows.batches,
        borders=None,
        bytes=count * options.tokens * (rows.dtype.itemsize + 1),
        notes={TOKENS: FieldNotes(unit=texts.tokenizer.unit)},
        columns=tuple(_reported(texts, rows.dtype)),
        splits=tuple((part.split, part.first + part.rows) for part in parts),
        split_by=f"whole texts, by {FRACTIONS}" if splits is None else f"whole texts, {splits.how}",
        left_out=left_out,
        counted=counted,
    )
    blocks = True if options.blocks is None else options.blocks
    return source, dataclasses.replace(
        options, splits=None, split_column=None, group=None, by=None, stratify=None, unique=None, blocks=blocks
    )


def _shuffled(
    texts: Texts, options: PackOptions, splits: Assigned | None, folder: Path, phases: Phases
) -> tuple[Runs, tuple[tuple[str, str], ...]]:
    """The texts' tokens as sorted runs, and the texts that could not be taken."""
    file = None
    if splits is not None:
        file = folder / "splits_of_texts"
        file.write_bytes(splits.splits.tobytes())
    encoders = token_encoders()
    scatter = Scatter(
        tokenized(texts, options),
        encoders,
        folder / "texts",
        options.seed ^ OF_TEXTS,
        phases.task_bytes,
        dict.fromkeys(encoders),
        assigned=file,
        most_bad=bad_examples.MOST if options.on_bad_example == "stop" else None,
    )
    made = phases.scatter("tokenizing", scatter)
    runs = Runs.of(run_folder(scatter.folder, run.start) for run in made)
    if not runs.examples:
        raise SourceError(complaint(texts.source.name, expected="texts", found="none", do="check the source"))
    return runs, tuple((place, reason) for run in made for place, reason in run.bad)


def _counts(name: str, runs: Runs, splits: Assigned | None, options: PackOptions) -> Mapping[str, int]:
    """Texts of every split that has some."""
    if splits is None:
        return split_counts(name, runs.examples, options.fractions)
    return {split: count for split, count in zip(SPLITS, runs.of_splits(), strict=True) if count}


def _token_ends(runs: Runs, token_bytes: int) -> NDArray[np.int64]:
    """Tokens up to the end of each text, in stored order."""
    parts = [
        runs.window(start, min(start + STEP, runs.examples)).lengths(TOKENS) for start in range(0, runs.examples, STEP)
    ]
    return np.cumsum(np.concatenate(parts) // token_bytes)


def _cut(
    name: str, ends: NDArray[np.int64], counts: Mapping[str, int], tokens: int
) -> tuple[tuple[Part, ...], dict[str, int]]:
    """The rows of each split, and what was counted.

    Raises:
        SourceError: a split has fewer tokens than a row.
    """
    parts: list[Part] = []
    texts = 0
    begin = 0
    for split, count in counts.items():
        texts += count
        end = int(ends[texts - 1])
        if end - begin < tokens:
            expected = f"at least {tokens:,} tokens for {split}, a row"
            do = "use more text, other --splits or fewer --tokens"
            raise SourceError(complaint(name, expected=expected, found=f"{end - begin:,} in {count:,} texts", do=do))
        first = parts[-1].first + parts[-1].rows if parts else 0
        parts.append(Part(split, first, (end - begin) // tokens, begin))
        begin = end
    rows = sum(part.rows for part in parts)
    counted = {"texts": len(ends), "tokens": int(ends[-1]), f"rows of {tokens:,} tokens": rows}
    empty = int(np.count_nonzero(np.diff(ends, prepend=0) == 0))
    if empty:
        counted["texts without a token"] = empty
    counted["tokens at the splits' ends, less than a row each, left out"] = int(ends[-1]) - rows * tokens
    return tuple(parts), counted


def _reported(texts: Texts, dtype: np.dtype[Any]) -> Iterator[Column]:
    """What became of the source's columns, and what the rows hold."""
    became = f"{dtype.name}, ids below {texts.tokenizer.vocabulary:,}"
    told = texts.source.columns or (Column(texts.name, "text", texts.name, "text"),)
    for column in told:
        if column.field == texts.name:
            yield dataclasses.replace(column, field=TOKENS, became=became)
        elif column.field is not None or column.became.endswith("(--columns)"):
            yield dataclasses.replace(column, field=None, became="left out: only texts become tokens")
        else:
            yield column
    yield Column("(first tokens)", "", STARTS, "true where a text begins")
