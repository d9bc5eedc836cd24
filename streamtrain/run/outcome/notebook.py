"""A result as notebooks show it: its table and its figure."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.report import ROWS
from streamtrain.run.outcome.wording import gap_with_error, mean_with_error, of_pass

if TYPE_CHECKING:
    from streamtrain.run.outcome.result import Evaluation, Result


def in_one_line(result: Result) -> str:
    """What counts of a result: its parameters are left to ``result.parameters``."""
    return (
        f"Result({result.mode}, {result.passes} pass(es), {_risks(result.chosen)}, {result.verdict}; "
        f"{result.stop_reason}; {result.folder})"
    )


def evaluation_in_one_line(evaluation: Evaluation) -> str:
    """Both risks of the loss and their gap."""
    return f"Evaluation(pass {of_pass(evaluation.passes)}, step {evaluation.step:,}, {_risks(evaluation)})"


def as_html(result: Result) -> str:
    """The table of the end of a run, and below it the figure of the loss where the run's folder has it."""
    cells = ((label, figure(result)) for label, figure in ROWS.items())
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(said)}</td></tr>" for label, said in cells if said
    )
    why = html.escape(result.stop_reason)
    drawn = RunFolder(result.folder).risk_figure("loss")
    image = ""
    if drawn.is_file():
        image = f'<img alt="risks and gap" src="data:image/png;base64,{base64.b64encode(drawn.read_bytes()).decode()}">'
    return f"<table>{rows}</table><p>{why}</p>{image}"


def _risks(evaluation: Evaluation) -> str:
    loss = mean_with_error(evaluation.generalization.loss)
    return f"loss held out {loss}, gap {gap_with_error(evaluation.gap_of_loss)}"
