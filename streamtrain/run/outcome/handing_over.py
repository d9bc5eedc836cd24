"""What a finished run hands to its tracker: parameters, verdict, description, result, figures and model."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamtrain.errors import complaint, one_line
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.report import description, figures
from streamtrain.store import write_whole

if TYPE_CHECKING:
    from streamtrain.prepare.plan import Plan
    from streamtrain.prepare.trial import Trial
    from streamtrain.run.outcome.result import Result
    from streamtrain.track.tracker import ModelCard, Tracker


@dataclass(frozen=True)
class _Ended:
    """A run that has ended well, and its tracker."""

    plan: Plan
    trial: Trial
    result: Result
    tracker: Tracker

    @property
    def folder(self) -> RunFolder:
        """Where all files lie."""
        return RunFolder(self.result.folder)


def hand_over(plan: Plan, trial: Trial, run_name: str, result: Result, tracker: Tracker) -> Iterator[str]:
    """Gives a finished run's files and words to its tracker.

    What cannot be made or saved does not undo a run that trained well: a line for each says so.
    """
    ended = _Ended(plan, trial, result, tracker)
    tracker.artifact(ended.folder.parameters, "parameters")
    tracker.tag("verdict", result.verdict)
    tracker.describe(description(run_name, result))
    parts: dict[str, Callable[[_Ended], Iterable[str] | None]] = {
        ended.folder.result.name: _result,
        "figures": _figures,
        "the figure of layers": _layers,
        "errors by class": _classes,
        "tables of metrics": _tables,
        "the model for MLflow": _model,
    }
    for what, keep in parts.items():
        try:
            yield from (f"{run_name}: {line}" for line in keep(ended) or ())
        except Exception as error:
            yield f"{run_name}: {what} could not be made ({one_line(error)}); the parameters are in {result.folder}"


def _result(ended: _Ended) -> None:
    write_whole(ended.folder.result, json.dumps(ended.result.summary(), indent=1).encode())
    ended.tracker.artifact(ended.folder.result, "result")


def _figures(ended: _Ended) -> None:
    for file in figures(ended.result):
        ended.tracker.artifact(file, "figures")


def _layers(ended: _Ended) -> None:
    from streamtrain.track.figures import save
    from streamtrain.track.layer_table import layer_figure, read_layers

    table, figure = ended.folder.layers, ended.folder.layer_figure
    if table.is_file():
        save(layer_figure(read_layers(table)), figure)
        for file in (figure, table):
            ended.tracker.artifact(file, "layers")


def _classes(ended: _Ended) -> None:
    from streamtrain.track.figures import class_figure, save

    folder, by_class = ended.folder, ended.result.by_class
    if by_class is None:
        return
    shown = by_class.shown
    all_classes = len(by_class.classes)
    which = (
        f"{all_classes}" if len(shown) == all_classes else f"the {len(shown)} of {all_classes:,} with the most errors"
    )
    names = [by_class.name(number) for number in shown]
    of = by_class.errors
    errors = [of.get(number) for number in shown]
    save(class_figure(by_class.matrix(shown), names, errors, f"classes: {which}"), folder.class_figure)
    for file, rows in ((folder.by_class, by_class.table()), (folder.confusion, by_class.pairs_table())):
        write_whole(file, _as_csv(rows))
    for file in (folder.class_figure, folder.by_class, folder.confusion):
        ended.tracker.artifact(file, "classes")


def _tables(ended: _Ended) -> None:
    for name, table in ended.result.tables.items():
        file = ended.folder.table(name)
        write_whole(file, _as_csv(np.atleast_2d(table).tolist()))
        ended.tracker.artifact(file, "tables")


def _as_csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _model(ended: _Ended) -> list[str]:
    """The logged model; lines for what the trial has not said of it."""
    tracker = ended.tracker
    tracking = ended.plan.job.tracking
    if ended.trial.unlogged is not None:
        tracker.tag("model.logged", f"no: {ended.trial.unlogged}")
        return []
    if not (tracking.enabled and tracking.log_model):
        return []
    card, pickled = _model_card(ended.plan, ended.trial, ended.result)
    tracker.model(card)
    if card.program is not None:
        return [
            f"the model in MLflow, {note}" for note in card.program.notes if note not in ended.trial.prospect.outside
        ]
    tracker.tag("model.pickled", pickled)
    if card.output is None:
        tracker.tag("model.signature", "none: MLflow's signatures cannot say the form of what it returns")
    return [] if ended.trial.prospect.not_exported else [by_pickle(pickled)]


def by_pickle(why: str) -> str:
    """The line for a model that is no program."""
    do = "read it by mlflow.pytorch.load_model, and call it with what data.map and data.transform make"
    return complaint(
        "the model for MLflow", expected="one that torch.export takes", found=f"{why}: kept by pickle", do=do
    )


def _model_card(plan: Plan, trial: Trial, result: Result) -> tuple[ModelCard, str]:
    """The model with the parameters that are kept; and why it is no program, where it is none."""
    from streamtrain.model.gradient import Gradient
    from streamtrain.model.module.initial import InitialParameters
    from streamtrain.prepare.trial import examples_of
    from streamtrain.serving import OF_PICKLE, NotExported, of_model, pinned, serve
    from streamtrain.track.tracker import ModelCard, ProgramCard

    filled = InitialParameters(plan.job.model, result.parameters)
    job = dataclasses.replace(plan.job, model=filled, device="cpu", compile=False)
    gradient = Gradient(job)
    model = gradient.model.eval()
    any_size = job.data.collate is not None
    card = ModelCard(model, trial.inputs, trial.output, job.tracking.register, result.chosen.step, any_size)
    try:
        served = serve(job, gradient, examples_of(plan), trial.prospect)
    except NotExported as why:
        return dataclasses.replace(card, needs=pinned({*OF_PICKLE, *of_model(model)})), str(why)
    program = ProgramCard(served.inputs, served.outputs, served.save, served.any_size, served.notes)
    return dataclasses.replace(card, program=program, needs=served.needs), ""
