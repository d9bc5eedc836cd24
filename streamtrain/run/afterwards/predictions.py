"""What a run's model says of every example of a data set, as a Parquet file: keys, outputs, loss and error of each.

One batch is in memory at a time, and what of the file is not written yet, some megabytes. The file gets its name when
it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from streamtrain.errors import ConfigError, JobError, complaint, one_line
from streamtrain.job import Job, Weighted
from streamtrain.model.objective import Entries
from streamtrain.run.afterwards.kept_model import KeptModel, Piece
from streamtrain.store import PARTIAL
from streamtrain.stream.reader import Reader

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 32 << 20
"""Of a group of rows in the file; as many are kept in memory before they are written."""


@dataclass(frozen=True)
class Predictions:
    """What was written: the file, its rows and columns, and how many bad examples are not in it.

    Attributes:
        left_out: outputs that are no tensors and so have no column, each with its type.
    """

    file: Path
    examples: int
    columns: tuple[str, ...]
    passed_over: int
    left_out: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.file),
            "examples": self.examples,
            "columns": list(self.columns),
            "passed_over": self.passed_over,
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        passed = f"; {self.passed_over:,} bad examples were passed over" if self.passed_over else ""
        left = f"; left out, since they are no tensors: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.file}: {self.examples:,} examples, {', '.join(self.columns)}{passed}{left}"


def predict(
    job: Job, run: Path, data: str, file: Path, *, splits: Sequence[str] = (), batch_size: int | None = None
) -> Predictions:
    """Writes a row for every example, in the stored order, split by split.

    The columns are ``key``, ``split``, ``number`` (in the stored order), ``loss``, ``error``, the loss's ``weight``
    where the job gives one, and ``output``: a number, or lists of numbers. Several outputs are ``output_NAME`` or
    ``output_0`` and so on; those that are no tensors (a cache of keys) are left out and named. A job's own objective
    gives its values by their names, and no output.

    Args:
        job, run, data, batch_size: as `KeptModel` takes them.
        file: to write; there must be none.
        splits: all that have examples by default.

    Raises:
        ConfigError, JobError: the run, the job and the data set do not fit, or the file is there or cannot be written.
        DataError: the data set is damaged.
    """
    _check_new(file)
    partial = file.parent / f".{file.name}.{secrets.token_hex(8)}{PARTIAL}"
    try:
        with KeptModel(job, run, data, batch_size=batch_size) as model:
            written = _write(model, model.splits(splits), partial)
        _name(partial, file)
    except OSError as error:
        raise ConfigError(complaint(str(file), expected="to write it", found=one_line(error), do=DO)) from None
    finally:
        partial.unlink(missing_ok=True)
    return dataclasses.replace(written, file=file)


def _write(model: KeptModel, splits: Sequence[str], file: Path) -> Predictions:
    import pyarrow.parquet as pq

    rows = passed_over = 0
    left_out: dict[str, None] = {}
    with contextlib.ExitStack() as open_files:
        writer: pq.ParquetWriter | None = None
        for split in splits:
            reader = model.reader(split)
            for table in _in_groups(_tables(model, reader, split, left_out)):
                if writer is None:
                    writer = open_files.enter_context(pq.ParquetWriter(file, table.schema))
                _check_same(table.schema, writer.schema)
                writer.write_table(table)
                rows += len(table)
            passed_over += len(reader.skipped)
        if writer is None:
            do = "see which by `streamtrain inspect`"
            raise ConfigError(complaint(model.place, expected="examples that can be read", found="none", do=do))
        return Predictions(file, rows, tuple(writer.schema.names), passed_over, tuple(left_out))


DO = "name a file in a folder that can be written"


def _check_new(file: Path) -> None:
    if file.exists() or file.is_symlink():
        do = "name another, or remove it"
        raise ConfigError(complaint(str(file), expected="no such file yet", found="one", do=do))
    if not file.parent.is_dir():
        raise ConfigError(complaint(str(file.parent), expected="a folder", found="no such folder", do=DO))


def _name(partial: Path, file: Path) -> None:
    """Gives the whole file its name, unless somebody else has taken it by now."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    _check_new(file)
    partial.rename(file)


def _in_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, in tables that are worth a group each."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for table in tables:
        if waiting:
            _check_same(table.schema, waiting[0].schema)
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _check_same(found: pa.Schema, expected: pa.Schema) -> None:
    if found != expected:
        first = next((f"{a} {b}" for a, b in zip(found, expected, strict=False) if a != b), "another number of columns")
        do = "let the model return outputs of the same names, types and numbers of axes for every batch"
        raise JobError(complaint("predict", expected="columns as of the first examples", found=first, do=do))


def _tables(model: KeptModel, reader: Reader, split: str, left_out: dict[str, None]) -> Iterator[pa.Table]:
    """A table for every batch of a split; outputs without a column are added to ``left_out``."""
    import pyarrow as pa

    for piece in model.pieces(reader):
        columns: dict[str, pa.Array] = {
            "key": pa.array([reader.locate(number)[2] for number in piece.numbers], pa.string()),
            "split": pa.array([split] * len(piece.numbers), pa.string()),
            "number": pa.array(piece.numbers, pa.int64()),
        }
        for name, value in _values(model, piece, left_out).items():
            columns[name] = _column(name, value, len(piece.numbers))
        yield pa.table(columns)


def _values(model: KeptModel, piece: Piece, left_out: dict[str, None]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Loss, error, weight and outputs of a batch's examples, by their columns' names.

    Of outputs in rows that examples share, each example's own entries.
    """
    output, batch = model.output(piece.arrays)
    with torch.no_grad():
        losses, errors = model.objective.losses(output, batch)
    found: dict[str, torch.Tensor | list[torch.Tensor]] = {"loss": _of_each(losses), "error": _of_each(errors)}
    if isinstance(losses, Weighted):
        found["weight"] = losses.weights
    if model.objective.is_own:
        measured = model.objective.own_values(output, batch)
        return found | {name: _of_each(value) for name, value in measured.items() if name not in found}
    pack = model.job.data.pack
    entries = None if pack is None else Entries(pack, batch)
    for name, value in _outputs(output).items():
        if isinstance(value, torch.Tensor) and entries is not None and entries.are_in(value):
            found[name] = entries.split(value)
        elif isinstance(value, torch.Tensor) or name == "output":
            found[name] = value
        elif value is not None:
            left_out[f"{name} ({type(value).__name__})"] = None
    return found


def _of_each(value: torch.Tensor | Weighted) -> torch.Tensor:
    return value.sums / value.weights if isinstance(value, Weighted) else value


def _outputs(output: Any) -> dict[str, Any]:
    """What the model returned, by their columns' names."""
    if isinstance(output, Mapping):
        return {f"output_{name}": value for name, value in output.items()}
    if isinstance(output, tuple | list):
        return {f"output_{index}": value for index, value in enumerate(output)}
    return {"output": output}


def _column(name: str, value: Any, examples: int) -> pa.Array:
    """A tensor whose first axis is the example: numbers, or lists of them, an axis each; or a tensor of each example.

    Raises:
        JobError: it is something else.
    """
    import pyarrow as pa

    if isinstance(value, list) and len(value) == examples:
        entries = _column(name, torch.cat(value), sum(map(len, value)))
        ends = itertools.accumulate(map(len, value), initial=0)
        return pa.ListArray.from_arrays(pa.array(list(ends), pa.int32()), entries)
    tensor = value
    if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.dim() == 0 or len(tensor) != examples:
        shape = f"shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        do = "return tensors of real numbers whose first axis is the example"
        expected = f"a tensor of {examples:,} examples"
        raise JobError(complaint(f"predict, {name}", expected=expected, found=shape, do=do))
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):  # exact, and every reader of Parquet knows it
        tensor = tensor.float()
    column = pa.array(tensor.reshape(-1).numpy())
    for axis in range(tensor.dim() - 1, 0, -1):
        lists = int(torch.tensor(tensor.shape[:axis]).prod())
        offsets = pa.array([index * tensor.shape[axis] for index in range(lists + 1)], pa.int32())
        column = pa.ListArray.from_arrays(offsets, column)
    return column
