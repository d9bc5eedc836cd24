"""All that can be refused before Ray starts: the fields, the labels, and the user's functions on a few examples."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.rules import Descent, match_rules
from streamtrain.aggregate.descent.schedule import check_schedule
from streamtrain.aggregate.optimizers.torch_optim import FittedTorch
from streamtrain.errors import ConfigError, JobError, complaint
from streamtrain.images.kinds import advised_mode, is_image
from streamtrain.job import Epochs
from streamtrain.job.objective import check_names
from streamtrain.model.evaluation import bytes_an_example, evaluate
from streamtrain.model.gradient import Batch, Gradient
from streamtrain.model.objective import check_whole, cut, risk_of
from streamtrain.model.whole_minibatch import make_gradient
from streamtrain.prepare.augmented import first_augmented, first_tried, try_augmented_batch
from streamtrain.prepare.draws import try_twice
from streamtrain.prepare.jobfile import check_functions_travel, why_not_logged
from streamtrain.prepare.mixing import check_examples_apart, check_left_alone, rows_of, tensors_of
from streamtrain.prepare.plan import Plan
from streamtrain.prepare.rehearsal import MOST_UPDATED, Rehearsal
from streamtrain.serving import Examples, Prospect, prospect, read_examples
from streamtrain.shards import Field
from streamtrain.stream.examples.generators import kept_generators
from streamtrain.stream.reader import FIRST_LOOKED_AT
from streamtrain.values import Arrays, Selection, examples_in

SIZED_EXAMPLES = 16
"""First examples, of which the smallest is collated with the largest; and whose labels are compared."""


@dataclass(frozen=True)
class Trial:
    """What the trial has found.

    Attributes:
        inputs, output: a few examples through the model on the CPU, for the logged model's signature; no output where
            there can be none.
        unlogged: why MLflow will not have the model, in one line; ``None`` where it will.
        prospect: what of the job MLflow will have with it.
        trains_otherwise: kinds of the model's parts that compute otherwise in training than in evaluation.
        example_bytes: what a measurement makes of an example, 0 where that is not known.
        labels_as_stored: whether the target that the loss gets is the stored one, in the first held-out examples.
    """

    inputs: tuple[NDArray[Any], ...]
    output: NDArray[Any] | None
    unlogged: str | None = None
    trains_otherwise: tuple[str, ...] = ()
    prospect: Prospect = field(default_factory=Prospect)
    labels_as_stored: bool = True
    example_bytes: float = 0.0


def preflight(plan: Plan) -> Trial:
    """Tries the job on the first examples of the data set.

    Raises:
        ConfigError: a field cannot be an input; a group has no parameter; a schedule does not fit the run's steps.
        JobError: the model, its loss, error, map or transform fails, returns something of another form, draws random
            numbers where it must not, or lets an example's loss depend on others.
    """
    _check_fields(plan)
    threads = torch.get_num_threads()
    with kept_generators():
        torch.set_num_threads(plan.job.threads)
        try:
            return _try(plan)
        finally:
            torch.set_num_threads(threads)


def _try(plan: Plan) -> Trial:
    check_functions_travel(plan.job)
    check_schedule(plan.job.schedule, plan.scheduled_steps)
    job = dataclasses.replace(plan.job, device="cpu", compile=False)
    gradient = make_gradient(job)
    match_rules(Descent.of(job), gradient.layout)
    optimizer = Descent.of(job).optimizer.fitted(gradient.layout)
    if isinstance(optimizer, FittedTorch) and gradient.layout.size * gradient.layout.dtype.itemsize <= MOST_UPDATED:
        optimizer.check()
    arrays = _first_examples(plan)
    training = first_augmented(plan, arrays)
    _check_arrays(training)
    examples = examples_in(arrays)
    rehearsal = Rehearsal(plan, gradient)
    batch = dict(try_twice("data.transform", lambda: gradient.batch({n: array.copy() for n, array in arrays.items()})))
    _check_made(plan, batch, training.keys() - arrays.keys())
    try_augmented_batch(plan, gradient, training)
    gradient.modes.evaluate()
    with torch.no_grad():
        output = gradient.output(batch)
        _check_labels(plan, gradient.objective.compared_of(output, batch)[0], arrays, batch)
        _check_losses(gradient, output, batch, examples)
        _check_whole_sets(plan, gradient, output, batch, examples)
    _check_smallest_part(rehearsal, plan, training)
    rehearsal.run(arrays, training)
    for name in plan.others:  # one example of each, as a run measures it
        evaluate(gradient, plan.reader(name).first_good())
    gradient.modes.evaluate()
    with torch.no_grad():
        output = gradient.output(batch)
        halves = job.precision in ("bf16", "fp16")
        if job.data.pack is None:
            check_examples_apart(gradient, batch, output, halves=halves, losses=job.loss_over == "examples")
        if job.data.collate is not None and job.loss_over == "examples":
            _check_collated(plan, gradient, halves=halves)
    found, unlogged = _try_logging(plan, gradient)
    signature = _signature(gradient.objective.inputs(batch), output)
    differing, stored = tuple(gradient.modes.differing()), _labels_as_stored(plan, gradient)
    held = bytes_an_example(job, gradient, plan.reader("train"))
    return Trial(*signature, unlogged, differing, found, stored, held)


def _signature(inputs: Sequence[torch.Tensor], output: Any) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None]:
    """Inputs and output as arrays; no output where it is not one tensor of real numbers."""
    is_one = isinstance(output, torch.Tensor) and not output.is_complex()
    return tuple(tensor.cpu().numpy() for tensor in inputs), output.float().numpy() if is_one else None


def _try_logging(plan: Plan, gradient: Gradient) -> tuple[Prospect, str | None]:
    """Saves the model by pickle, to nowhere; or makes its program, as at the end of a run: why both fail, if they do.

    The program is what is logged where it can be had. Making it takes seconds, so it is tried here only where something
    would be lost without it: where pickle fails, or the model is to be registered.

    Raises:
        ConfigError: they fail, and the job wants the model registered.
    """
    layout = gradient.layout
    job = plan.job
    wanted = job.tracking.enabled and job.tracking.log_model
    if not wanted or layout.size * layout.dtype.itemsize > MOST_UPDATED:
        return Prospect(), None
    job = dataclasses.replace(job, device="cpu", compile=False)
    another = Gradient(job)
    why = why_not_logged(another.model.eval())
    if why is None and job.tracking.register is None:
        return Prospect(), None
    found = prospect(job, another, examples_of(plan))
    if found.not_exported is None:
        return found, None
    if why is not None and job.tracking.register is not None:
        do = "let its parts be pickled, or leave tracking.register out"
        raise ConfigError(complaint("tracking.register", expected="a model that can be saved", found=why, do=do))
    return found, why


def examples_of(plan: Plan) -> Examples:
    """A few held-out examples, which the logged model is held against."""
    data = plan.job.data
    return read_examples(plan.reader("validation"), unmapped=data.map is not None and data.collate is None)


def _first_examples(plan: Plan) -> Arrays:
    """The first good examples, where the first are good; else one."""
    reader = plan.reader("train")
    reader.expect([(0, min(FIRST_LOOKED_AT, len(reader)))])
    first = reader.first_good()

    def read() -> Arrays:
        return reader.select(first_tried(plan)) or first

    data = plan.job.data
    functions = [name for name in ("map", "collate") if callable(getattr(data, name))]
    arrays = dict(try_twice(" or ".join(f"data.{name}" for name in functions), read) if functions else read())
    _check_arrays(arrays)
    return arrays


def _check_collated(plan: Plan, gradient: Gradient, *, halves: bool) -> None:
    """Whether examples are to the job what they are alone: the smallest and the largest of some, or all in rows."""
    pack = plan.job.data.pack
    reader = plan.reader("train")
    found = []
    for number in range(min(SIZED_EXAMPLES, len(reader))):
        arrays = reader.select(Selection(0, ((number, number + 1),)))
        if arrays:
            found.append((sum(array.nbytes for array in arrays.values()), number, arrays))
    found.sort(key=lambda each: each[0])
    if not found or (pack is None and found[0][0] == found[-1][0]):
        return
    chosen = [found[0], found[-1]] if pack is None else found
    together = reader.take(np.array([number for _, number, _ in chosen]))
    alone = [gradient.batch(arrays) for _, _, arrays in chosen]
    check_left_alone(gradient, alone, gradient.batch(together), pack, halves=halves)


def _check_made(plan: Plan, batch: Mapping[str, Any], augmented: Set[str]) -> None:
    """Whether evaluation has the fields that model and loss take; ``augmented``: those that only training has."""
    data = plan.job.data
    kept = data.fields_used if data.pack is None else (*data.fields_used, *data.pack.made)
    for name in kept:
        if name in batch:
            continue
        expected, found = f"a field {name!r}", ", ".join(sorted(batch))
        functions = [function for function in ("transform", "collate") if callable(getattr(data, function))]
        last = f"data.{functions[0]}" if functions else "data.map"
        do = "return it too"
        if name in augmented:
            last, do = "data.map", "make it there too: evaluation does not call data.augment"
        raise JobError(complaint(last, expected=expected, found=found, do=do))


def _check_fields(plan: Plan) -> None:
    for name in plan.fields:
        field = plan.manifest.field_named(name)
        if field is None:
            found = ", ".join(f.name for f in plan.manifest.fields)
            do = "set data.inputs, data.target and data.extra, or make it in data.map"
            raise ConfigError(complaint(plan.place, expected=f"a field {name!r}", found=found, do=do))
        if plan.job.data.map is not None or callable(plan.job.data.collate):
            continue
        if is_image(field.member):
            _check_images(plan, field)
            continue
        if field.dtype is None or (field.shape is None and name not in plan.job.data.resized):
            kind = "text, JSON or bytes" if field.dtype is None else "arrays whose shape varies"
            pad = "" if field.dtype is None else f"data.collate=st.Pad({name!r}), "
            raise ConfigError(
                complaint(
                    f"{plan.place}, field {name!r}",
                    expected="arrays of one shape",
                    found=kind,
                    do=f"set data.map, {pad}pack them in one shape, or leave the field out",
                )
            )


def _check_images(plan: Plan, field: Field) -> None:
    """All images against the settings, from what `pack` has seen of them."""
    data = plan.job.data
    facts = field.images
    where = f"{plan.place}, field {field.name!r}"
    kinds = {} if facts is None else facts.kinds
    if len(kinds) > 1 and data.image_mode == "stored":
        found = ", ".join(f"{count:,} {name}" for name, count in kinds.items())
        do = advised_mode(kinds, "data.image_mode")
        raise ConfigError(complaint(where, expected="images of one kind", found=found, do=do))
    fine = [name for name in kinds if name in ("int32", "uint32", "float32")]
    if fine and data.image_mode != "stored":
        expected, do = "levels of 8 or 16 bits", "leave data.image_mode as stored, and scale them in data.transform"
        raise ConfigError(complaint(where, expected=expected, found=", ".join(fine), do=do))
    one_size = field.shape is not None if facts is None else facts.smallest == facts.largest
    if data.image_size is None and not one_size:
        sizes = () if facts is None else ("×".join(map(str, each)) for each in (facts.smallest, facts.largest))
        found = " to ".join(sizes) or "several"
        do = "set data.image_size, or data.map, or pack with --image-size"
        raise ConfigError(complaint(where, expected="images of one size", found=found, do=do))


def _check_arrays(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            expected, do = "numbers", "turn it into numbers in data.map, or leave it out of what data.map returns"
            raise JobError(complaint(f"field {name!r}", expected=expected, found=f"{array.dtype}", do=do))


def _check_losses(gradient: Gradient, output: Any, batch: Batch, examples: int) -> None:
    measured = gradient.objective.measures(output, batch)
    check_names([name for name in measured if name not in ("loss", "error")])
    for name, values in tensors_of(measured).items():
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        if shape != (examples,):
            raise JobError(
                complaint(
                    name,
                    expected=f"one value an example, shape ({examples},)",
                    found=str(shape),
                    do='do not average over examples, e.g. use reduction="none"',
                )
            )
    risk_of(measured)  # refuses wrong weights


def _check_whole_sets(plan: Plan, gradient: Gradient, output: Any, batch: Batch, examples: int) -> None:
    """Metrics of the whole set, on all of some examples, and on one, some and one of them; and `Epochs.stop_on`."""
    whole = gradient.objective.whole
    measured = list(gradient.objective.measures(output, batch))
    if examples < 2 and whole:  # of one example some have no value
        return
    pieces = []
    for start, stop in itertools.pairwise(sorted({0, 1, examples - 1, examples})) if whole else ():
        piece = _cut(plan, batch, start, stop)
        found, rows = (False, None) if plan.job.data.pack else rows_of(output, examples, start, stop)
        pieces.append(gradient.objective.compared_of(rows if found else gradient.output(piece), piece))
    pair = gradient.objective.compared_of(output, batch)
    numbers = check_whole(whole, *pair, pieces) if whole else []
    check_names(numbers)
    mode = plan.job.mode
    name = mode.stop_on.rpartition("/")[2] if isinstance(mode, Epochs) else "error"
    if name not in (*measured, *numbers):
        expected = f"one of {', '.join((*measured, *numbers))}"
        raise ConfigError(complaint("mode.stop_on", expected=expected, found=name, do="choose one of them"))


def _cut(plan: Plan, batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Some examples of a batch, of arrays or tensors."""
    pack = plan.job.data.pack
    return cut(batch, pack, start, stop) if pack else {name: each[start:stop] for name, each in batch.items()}


def _check_labels(plan: Plan, output: Any, arrays: Arrays, batch: Batch) -> None:
    """All labels against the model's classes, for the built-in cross-entropy, from the manifest alone.

    Args:
        arrays, batch: some examples as they were read, and as they are transformed: labels that are still the same.
    """
    target = plan.job.data.target
    if not isinstance(target, str) or target not in arrays or not np.array_equal(batch[target].numpy(), arrays[target]):
        return
    field = plan.manifest.field_named(target)
    if plan.job.loss != "cross_entropy" or field is None or field.high is None:
        return
    if not isinstance(output, torch.Tensor) or output.dim() < 2:
        return  # the loss itself says what it expects
    classes = output.shape[1]
    if field.high >= classes or (field.low or 0) < 0:
        raise JobError(
            complaint(
                f"{plan.place}, field {field.name!r}",
                expected=f"labels from 0 to {classes - 1}, the model's {classes} outputs",
                found=f"{field.low} to {field.high}",
                do="give the model an output for each class, or correct the labels",
            )
        )


def _labels_as_stored(plan: Plan, gradient: Gradient) -> bool:
    """Whether `map` and `transform` leave labels that have names alone: else the names are not theirs."""
    target = str(plan.job.data.target)
    labels = plan.manifest.field_named(target)
    if labels is None or not labels.classes or labels.shape != ():
        return False
    reader = plan.reader("validation")
    count = min(SIZED_EXAMPLES, len(reader))
    reader.expect([(0, count)])
    stored = (reader.unmapped().read(number, number + 1) for number in range(count))
    each = [arrays[target] for arrays in stored if arrays]
    arrays = reader.read(0, count)
    return bool(arrays) and np.array_equal(gradient.batch(arrays)[target].numpy(), np.concatenate(each))


def _check_smallest_part(rehearsal: Rehearsal, plan: Plan, arrays: Arrays) -> None:
    """A backward of the smallest part that a lane gives in a pass: in training mode BatchNorm refuses one example."""
    found = plan.order.smallest(plan.passes)
    smallest = min(found.smallest_part, examples_in(arrays))
    try:
        rehearsal.lane(_cut(plan, arrays, 0, smallest))
    except JobError as error:
        if smallest < found.smallest_part:
            raise
        raise JobError(
            f"{error}; a lane's part of a minibatch of {found.examples} is as small as {smallest}: "
            "another batch_size, lanes or mode.max_examples changes that"
        ) from error
