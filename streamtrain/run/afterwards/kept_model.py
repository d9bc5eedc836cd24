"""A run's model with the parameters that it kept, over any data set that has its fields, in this process."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from streamtrain.aggregate.moments import WrongWeight
from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.model.evaluation import (
    bytes_an_example,
    evaluate_batches,
    measured_at_once,
    measured_together,
)
from streamtrain.model.gradient import Batch, Gradient, build_model
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.module.initial import InitialParameters, fitted
from streamtrain.order import evaluation_slice, evaluation_slices
from streamtrain.prepare.plan import reader_of, reads_all
from streamtrain.run.checkpoints.parameters import kept_parameters
from streamtrain.run.fleet.inline import ProcessSettings
from streamtrain.store import local_path, masked
from streamtrain.stream.opening import open_dataset
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays, Lane, Risk


@dataclass(frozen=True)
class Piece:
    """Some neighbours in the stored order of a split.

    ``numbers`` are those of the examples in ``arrays``: bad ones that are passed over are in neither.
    """

    numbers: Sequence[int]
    arrays: Arrays


class KeptModel:
    """See the module. It computes as evaluation does: nothing is drawn, and nothing changes. Use it as a context.

    In the context the process has the threads and the choice of kernels that a worker has, for the same bits.

    Args:
        job: of the run.
        run: its folder, a checkpoint's ``.safetensors`` in it, or any ``.safetensors`` of a state dict.
        url: folder or URL of the data set.
        batch_size: most examples at once; by default as a run has them, which looks at ``micro_batch``.

    Raises:
        ConfigError: no such parameters, or not of this model, or a field is missing. DataError: no such data set.

    Attributes:
        job: over the data set, on a device that is there.
        manifest: the data set's.
        place: its, as messages name it.
        step: updates in the parameters, where that is known.
    """

    def __init__(self, job: Job, run: Path, url: str, *, batch_size: int | None = None) -> None:
        if job.loss_over == "minibatch" and batch_size is not None:
            do = "leave it out: the loss is over groups of batch_size examples"
            found = str(batch_size)
            raise ConfigError(complaint("--batch-size", expected='none with loss_over="minibatch"', found=found, do=do))
        device = job.device if torch.cuda.is_available() else "cpu"
        data = dataclasses.replace(job.data, url=url)
        bits = "same" if job.bits == "portable" else job.bits  # whose switches are read before the first import
        job = dataclasses.replace(job, data=data, device=device, bits=bits, compile=False, listeners=())
        self._before = ProcessSettings()
        self.place = masked(str(local_path(url) or url))
        self.manifest = open_dataset(url)
        self.job = reads_all(job, self.manifest) if job.objective is not None else job
        tensors, self.step = kept_parameters(job, run)
        filled = InitialParameters(job.model, fitted(build_model(job), tensors, str(run)))
        self._gradient = Gradient(dataclasses.replace(self.job, model=filled))
        self._gradient.modes.evaluate()
        self._given = batch_size

    def __enter__(self) -> Self:
        prepare_process(self.job)
        return self

    def __exit__(self, *_: object) -> None:
        self._before.put_back()

    @property
    def objective(self) -> Any:
        """What is measured of the model's output."""
        return self._gradient.objective

    def splits(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of the data set; of these names where there are any.

        Raises:
            ConfigError: no such split, or none that has examples.
        """
        there = tuple(name for name, split in self.manifest.splits.items() if split.examples)
        for name in wanted:
            if name not in there:
                do = "name one of these, or leave --splits out for all"
                expected = f"one of {', '.join(there)}, which have examples in {self.place}"
                raise ConfigError(complaint("--splits", expected=expected, found=name, do=do))
        return tuple(wanted) or there

    def reader(self, split: str) -> Reader:
        """Of a split, for `slices`."""
        return reader_of(self.job, self.manifest, split)

    def batches(self, reader: Reader) -> Iterator[Sequence[tuple[int, int]]]:
        """The slices that a run would evaluate, in order and each example once; those together that a run has so."""
        slices = self._slices(reader)
        if self._given is not None:
            return iter([[each] for each in slices])
        return iter(measured_together(self.job, self._example_bytes, slices))

    def risks(self, reader: Reader, batch: Sequence[tuple[int, int]]) -> list[Risk]:
        """Of each slice of a batch, as a run measures it.

        Raises:
            WrongWeight: with the example's name.
        """
        arrays = [reader.read(*each) for each in batch]
        try:
            return evaluate_batches(self._gradient, [arrays], most=self._most)
        except WrongWeight as wrong:
            numbers = (number for each in batch for number in range(*each) if number not in reader.skipped)
            number = next(itertools.islice(numbers, wrong.index, None))
            raise WrongWeight(wrong.index, wrong.weight, where=reader.where(number)) from None

    def pieces(self, reader: Reader) -> Iterator[Piece]:
        """All examples of a split in order, in pieces that fit."""
        size = self._most
        for start, stop in self._slices(reader):
            for first in range(start, stop, size or stop - start):
                last = min(first + (size or stop - start), stop)
                arrays = reader.read(first, last)
                if arrays:
                    yield Piece([number for number in range(first, last) if number not in reader.skipped], arrays)

    def output(self, arrays: Arrays) -> tuple[Any, Batch]:
        """What the model returns for these examples, and the batch that it got."""
        with torch.no_grad():
            batch = self._gradient.batch(arrays)
            return self._gradient.output(batch), batch

    def _slices(self, reader: Reader) -> Sequence[tuple[int, int]]:
        examples = len(reader)
        return evaluation_slices([Lane(0, 0, examples)], examples, evaluation_slice(examples, self.job.loss_group))

    @property
    def _most(self) -> int | None:
        return self._given or measured_at_once(self.job, self._example_bytes)

    @functools.cached_property
    def _example_bytes(self) -> float:
        """Counted as the run's trial did: of a training example, where there are any, on the CPU."""
        splits = self.splits(())
        gradient = self._gradient if self.job.device == "cpu" else Gradient(dataclasses.replace(self.job, device="cpu"))
        return bytes_an_example(self.job, gradient, self.reader("train" if "train" in splits else splits[0]))
