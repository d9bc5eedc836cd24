"""What a finished run hands to its tracker: parameters, verdict, description, result, figures and model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamtrain.errors import one_line
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
    parts: dict[str, Callable[[_Ended], None]] = {
        ended.folder.result.name: _result,
        "figures": _figures,
        "the figure of layers": _layers,
        "errors by class": _classes,
        "tables of metrics": _tables,
        "the model for MLflow": _model,
    }
    for what, keep in parts.items():
        try:
            keep(ended)
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


def _model(ended: _Ended) -> None:
    tracker = ended.tracker
    tracking = ended.plan.job.tracking
    if ended.trial.unlogged is not None:
        tracker.tag("model.logged", f"no: {ended.trial.unlogged}")
    elif tracking.enabled and tracking.log_model:
        tracker.model(_model_card(ended.plan, ended.trial, ended.result))
        if ended.trial.output is None:
            tracker.tag("model.signature", "none: MLflow's signatures cannot say the form of what it returns")


def _model_card(plan: Plan, trial: Trial, result: Result) -> ModelCard:
    from streamtrain.model.gradient import build_model
    from streamtrain.track.tracker import ModelCard

    model = build_model(plan.job)
    model.load_state_dict(result.parameters)
    any_size = plan.job.data.collate is not None
    return ModelCard(model.eval(), trial.inputs, trial.output, plan.job.tracking.register, result.chosen.step, any_size)
