"""What a run hands over as its model: the program, the job's `map` where it can be had, and what they need."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamtrain.job import Job
from streamtrain.model.gradient import Gradient
from streamtrain.serving.evaluated import NotExported
from streamtrain.serving.examples import Examples, first_of
from streamtrain.serving.map_source import MapSource, NotShipped, check, map_source
from streamtrain.serving.program import Program, difference, export
from streamtrain.serving.requirements import OF_PROGRAM, pinned

PROGRAM, CARD, FUNCTIONS = "program.pt2", "program.json", "functions.py"
"""Files of a logged model; `streamtrain.track.mlflow.predictor` reads them."""

MOST_READ_BACK = 2**28
"""Bytes of parameters up to which the written program is read again: it is another copy of them in memory."""


@dataclass(frozen=True)
class Prospect:
    """What can be handed over, as it was found on a few examples.

    Attributes:
        not_exported: why there is no program; ``None`` where there is one.
        map: the job's, where it is part of it.
        outside: the job's functions that are no part of it, each with the reason: who calls it has to do that before.
    """

    not_exported: str | None = None
    map: MapSource | None = None
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Served:
    """A program with all that stands before it.

    Attributes:
        inputs: one example as it is called with, a column a field, or the row that it lies in with others; bytes and
            texts are objects.
        outputs: what it gives for it, by name; the empty one of a single output.
        any_size: inputs and outputs by their names whose other axes than the first may have other sizes than here.
    """

    program: Program
    prospect: Prospect
    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]
    any_size: frozenset[str]

    def save(self, folder: Path) -> dict[str, Path]:
        """Writes its files: the program, what it is called with, and the job's function where there is one."""
        files = {"program": folder / PROGRAM, "card": folder / CARD}
        self.program.save(files["program"])
        before = self.prospect.map
        card: dict[str, Any] = {
            "fields": list(self.program.fields),
            "outputs": list(self.program.outputs),
            "packages": list(self.program.packages),
            "map": None,
        }
        if before is not None:
            files["functions"] = folder / FUNCTIONS
            files["functions"].write_text(before.source)
            zeros = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in before.zeros.items()}
            card["map"] = {"function": before.function, "fields": dict(before.fields), "zeros": zeros}
        files["card"].write_text(json.dumps(card, indent=1))
        return files

    @property
    def needs(self) -> tuple[str, ...]:
        """What pip has to install for it."""
        before = self.prospect.map
        return pinned({*OF_PROGRAM, *self.program.packages, *(before.packages if before else ())})

    @property
    def notes(self) -> tuple[str, ...]:
        """What who uses it has to know, a line each."""
        lines = [*self.prospect.outside]
        if self.program.left_out:
            lines.append(f"outputs that are no tensors are left out: {', '.join(self.program.left_out)}")
        if self.program.difference:
            lines.append(f"its numbers differ from the model's by up to {self.program.difference:.1g} of the largest")
        return tuple(lines)


def prospect(job: Job, gradient: Gradient, examples: Examples) -> Prospect:
    """What of a job can be handed over, without a trained model: what the trial asks.

    The program is written to disk, but not read again: that takes longer than to make it.

    Args:
        gradient: as `export` takes it.
    """
    try:
        program = export(job, gradient, examples.read)
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / PROGRAM)
    except NotExported as why:
        return Prospect(str(why))
    return _with_map(job, program, examples)


def serve(job: Job, gradient: Gradient, examples: Examples, found: Prospect) -> Served:
    """The same with a trained model; what is written of it is read again, and held against it.

    Args:
        found: what the trial found; where it did not ask, an empty one.

    Raises:
        NotExported: it cannot be a program after all.
    """
    if found.not_exported is not None:
        raise NotExported(found.not_exported)
    program = export(job, gradient, examples.read)
    if sum(each.nbytes for each in program.exported.state_dict.values()) <= MOST_READ_BACK:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PROGRAM
            program.save(file)
            difference(program.read_back(file), job, gradient, examples.read)
    if found.map is None:
        found = _with_map(job, program, examples)
    else:
        try:
            check(found.map, examples.raw, examples.read, program.fields)
        except NotShipped as why:
            found = Prospect(outside=(_outside("map", why),))
    first = first_of(examples.read, 1, job.data.pack)
    columns = first if found.map is None else {name: array[:1] for name, array in examples.raw.items()}
    fields = program.fields if found.map is None else tuple(found.map.fields)
    inputs = {name: _in_one_array(columns[name]) for name in fields}
    outputs = program(first)
    loose = {*inputs, *outputs} if job.data.collate is not None else {*inputs} & examples.loose
    return Served(program, found, inputs, outputs, frozenset(loose))


def _in_one_array(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One example's column; an array, as a picture beside others of other sizes, is no object by itself."""
    return column[0][None] if column.dtype == object and isinstance(column[0], np.ndarray) else column


def _with_map(job: Job, program: Program, examples: Examples) -> Prospect:
    """With the job's `map`, where it can be cut out of the job's file."""
    if job.data.collate is not None:
        before = "data.map and data.collate" if job.data.map is not None else "data.collate"
        return Prospect(outside=(f"{before}: batches are given to it as data.collate returns them",))
    if job.data.map is None:
        return Prospect()
    try:
        return Prospect(map=map_source(job, examples.raw, examples.read, program.fields))
    except NotShipped as why:
        return Prospect(outside=(_outside("map", why),))


def _outside(name: str, why: NotShipped) -> str:
    return f"data.{name}: {why}; examples are given to it as data.{name} returns them"
