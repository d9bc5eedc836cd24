"""What people read of a run: errors in their unit, and of what is not known, that it is not."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamtrain as st
from streamtrain.run.folder import RunFolder
from streamtrain.run.outcome.compare import compare
from streamtrain.run.outcome.report import description, figures, table
from streamtrain.run.outcome.result import Evaluation, Result
from streamtrain.run.outcome.wording import WHY_NOT_KNOWN, in_two_sentences, mean_with_error, of_pass, with_error
from streamtrain.run.watching.status import status_of
from streamtrain.track.figures import risk_figure
from streamtrain.values import Moments, Risk
from tests.support.fleet import Notebook, run


def absolute(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.squeeze(1) - target).abs()


def missed(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (absolute(output, target) > 20).float()


def of_prices(folder: Path, held_out: float = 0.25, **job: Any) -> st.Job:
    """A regression whose errors are in the hundreds."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(40, 3)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, label=(x @ [300, -200, 100] + 500).astype(np.float32))
    st.pack(str(folder / "d.npz"), folder / "d", st.PackOptions(splits=(1 - held_out, held_out, 0.0), seed=1))
    declared: dict[str, Any] = {"loss": "mse", "mode": st.Epochs(max_passes=2), "batch_size": 8}
    return st.Job(st.Data(str(folder / "d"), inputs=("x",)), lambda: torch.nn.Linear(3, 1), **declared | job)


def all_words(result: Result, capsys: pytest.CaptureFixture[str]) -> str:
    return "\n".join([table({"epochs": result}), description("prices", result), capsys.readouterr().err])


def strict(text: str) -> Any:
    """JSON as its standard has it: without NaN and infinities."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_figure_its_error_and_its_unit() -> None:
    assert with_error(0.5, 0.125) == "0.5000 ± 0.1250"
    assert with_error(0.5, 0.125, sign=True) == "+0.5000 ± 0.1250"
    assert with_error(0.5, 0.125, "%") == "50.00% ± 12.50%"
    assert with_error(-0.5, 0.125, "m²", sign=True) == "-0.5000 ± 0.1250 m²"
    assert with_error(0.5, math.nan, "m²") == "0.5000 m² (± not known)"
    assert with_error(0.5, None, "%") == "50.00% (± not known)"
    assert with_error(1.25e30, 2e8) == "1.25e+30 ± 200000000.0000"
    assert with_error(math.nan, math.nan) == "nan", "a run that diverged, whatever the number of examples"


@pytest.mark.parametrize(
    ("declared", "unit"),
    [
        ({"loss": "mse"}, ""),
        ({"loss": "mse", "error_unit": "€²"}, "€²"),
        ({"loss": "mse", "error": absolute, "error_unit": "€"}, "€"),
        ({"loss": absolute}, ""),
        ({"loss": "mse", "error": missed}, ""),
        ({"loss": "mse", "error": missed, "error_unit": "%"}, "%"),
        ({"loss": absolute, "error": "zero_one"}, "%"),
        ({"loss": "cross_entropy"}, "%"),
        ({"loss": "cross_entropy", "error": missed}, ""),
    ],
)
def test_only_fractions_are_per_cent(declared: dict[str, Any], unit: str) -> None:
    assert st.Job(st.Data("nowhere"), lambda: torch.nn.Linear(3, 1), **declared).unit_of_error == unit


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"error_unit": "m"}, "error_unit: expected % of the 0-1 error, found 'm'; leave it as it is by default"),
        ({"loss": "mse", "error_unit": ""}, "error_unit: expected 1 to 20 characters in one line"),
        ({"loss": "mse", "error_unit": "a|b"}, "without |, found 'a|b'; shorten it, e.g. to m"),
        ({"loss": "mse", "error_unit": "m\nn"}, "error_unit: expected 1 to 20 characters"),
        ({"loss": "mse", "error_unit": "m" * 21}, "error_unit: expected 1 to 20 characters"),
    ],
)
def test_a_unit_that_fits_nowhere_is_refused(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(st.ConfigError, match=re.escape(says)):
        st.Job(st.Data("nowhere"), lambda: torch.nn.Linear(3, 1), **declared)


@pytest.mark.figures
@pytest.mark.parametrize("unit", [None, "€²"])
def test_a_regressions_error_is_no_fraction_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str | None
) -> None:
    result, _ = run(of_prices(tmp_path, error_unit=unit), tmp_path, quiet=False)
    words, mean = all_words(result, capsys), result.chosen.generalization.error.mean
    assert mean > 1000, "a mean of squares of hundreds"
    assert "%" not in words
    shown = f"{mean:.4f}" + (f" ± {result.chosen.generalization.error.standard_error:.4f} {unit}" if unit else "")
    assert shown in table({"epochs": result}) and f"held out {mean:.4f}" + (f" {unit}" if unit else "") in words
    assert result.summary()["error_unit"] == (unit or "")
    risks = [[getattr(result.chosen, which)] * 2 for which in ("empirical", "generalization")]
    drawn = risk_figure([1, 2], *risks, which="error", unit="passes", error_unit=result.error_unit)
    assert drawn.axes[0].get_ylabel() == (f"error, {unit}" if unit else "error")
    drawn.canvas.draw()
    assert not any("%" in label.get_text() for axes in drawn.axes for label in axes.get_yticklabels())
    files = list(figures(result))
    assert all(1000 < file.stat().st_size < 500_000 for file in files) and len(files) == (3 if unit else 2)
    page = files[-1].read_text()
    assert drawn.axes[0].get_ylabel() in page and "%" not in re.sub(r"<style.*?</style>|style=\".*?\"", "", page)


@pytest.mark.figures
def test_a_fraction_is_per_cent_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = run(of_prices(tmp_path, error=missed, error_unit="%"), tmp_path, quiet=False)
    words, mean = all_words(result, capsys), result.chosen.generalization.error.mean
    assert 0 < mean <= 1 and f"held out {mean:.2%}" in words
    assert f"{mean:.2%} ± {result.chosen.generalization.error.standard_error:.2%}" in table({"epochs": result})
    risks = [[getattr(result.chosen, which)] * 2 for which in ("empirical", "generalization")]
    drawn = risk_figure([1, 2], *risks, which="error", unit="passes", error_unit="%")
    drawn.canvas.draw()
    assert all("%" in label.get_text() for label in drawn.axes[0].get_yticklabels() if label.get_text())
    *_, page = figures(result)
    cells = re.findall("<td>(.*?)</td>", page.read_text())
    assert "%" not in "".join(cells[:4]) and all("%" in cell for cell in cells[4:7]), "the loss is none"


@pytest.mark.figures
def test_one_held_out_example_has_no_standard_error_and_all_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many training examples are measured as are held out: of the training risk nothing more is known."""
    notebook = Notebook()
    job = of_prices(tmp_path, held_out=0.025, loss="mse")
    assert len(st.open(job.data.url, "validation")) == 1
    result, _ = run(job, tmp_path, notebook, quiet=False)
    words = all_words(result, capsys)
    assert "nan" not in words.lower()
    rows = {line.split("  ")[0]: line for line in table({"epochs": result}).splitlines() if "not known" in line}
    assert rows.keys() == {f"{what}, {of}" for what in ("loss",) for of in ("training", "held out", "gap")} | {
        WHY_NOT_KNOWN
    }
    assert words.count(WHY_NOT_KNOWN) == 2, "below the table, and in the description"
    summary = strict(json.dumps(result.summary()))
    assert summary["gap"]["loss_standard_error"] is None and summary["gap"]["error_standard_error"] is None
    assert summary["generalization_risk"]["loss_standard_error"] is None
    names = {reading.name for reading in notebook.readings}
    assert {"Gap/loss", "generalization_risk/loss", "empirical_risk/error"} <= names
    assert not {name for name in names if re.match("(Gap|generalization_risk|empirical_risk)/.*_standard_error", name)}
    assert not [reading for reading in notebook.readings if math.isnan(reading.value)]
    RunFolder(tmp_path).lock.touch()
    status = status_of(tmp_path)
    assert "(± not known)" in str(status) and "nan" not in str(status)
    assert strict(json.dumps(status.summary()))["gap_standard_error"] is None
    assert all(file.stat().st_size > 1000 for file in figures(result))


def test_runs_with_one_held_out_example_are_not_called_better(tmp_path: Path) -> None:
    job = of_prices(tmp_path, held_out=0.025)
    results = []
    for number, rate in enumerate((1e-2, 1e-9)):
        (tmp_path / str(number)).mkdir()
        results.append(run(dataclasses.replace(job, optimizer=st.SGD(lr=rate)), tmp_path / str(number))[0])
    found = compare(*results)
    assert "better" not in found.says and WHY_NOT_KNOWN in found.says and "nan" not in found.table
    strict(json.dumps(found.summary()))
    groups = compare(results, results[::-1])
    assert "better" not in groups.says and "nan" not in groups.table


def test_what_is_exact_and_what_never_happened() -> None:
    whole = Moments(100, 0.25, 3.0, population=100)
    assert mean_with_error(whole) == "0.2500 (exact)" and mean_with_error(whole, "%") == "25.00% (exact)"
    assert mean_with_error(Moments(70_000, 0.0, 0.0), "%") == "0 of 70,000: below 0.0014%"
    assert mean_with_error(Moments(70_000, 0.0, 0.0, population=70_000), "%") == "0.00% (exact)"


@pytest.mark.parametrize(
    ("passes", "read"),
    [
        (0.125, "0.125"),
        (1 / 3, "0.333"),
        (7, "7"),
        (12.34, "12.3"),
        (99.97, "100"),
        (1180, "1,180"),
        (20_000.5, "20,000"),
    ],
)
def test_a_long_run_counts_its_passes_in_whole_numbers(passes: float, read: str) -> None:
    assert of_pass(passes) == read


@pytest.mark.parametrize(
    ("losses", "starts", "tries"),
    [
        ([(2.0, 2.0), (1.0, 1.5), (0.5, 2.5)], "It overfits: the held-out loss has risen while", "Try more data"),
        ([(2.0, 2.0), (1.0, 1.6), (0.8, 1.5)], "It generalizes with a gap: held-out examples have a loss", "Try more"),
        ([(3.0, 3.0), (2.0, 2.0), (1.0, 1.0)], "It generalizes, and learns on: held-out", "Try more passes"),
        ([(1.0, 1.0), (1.0, 1.0)], "It generalizes as far as is seen: held-out examples", "Try a larger model"),
        ([(1.0, 1.0), (math.nan, math.nan)], "It diverged: the last loss is no number.", "Try a smaller"),
    ],
)
def test_two_sentences_say_whether_it_generalizes_and_what_to_try(
    losses: list[tuple[float, float]], starts: str, tries: str, tmp_path: Path
) -> None:
    def risk(mean: float) -> Risk:
        return Risk(Moments(1000, mean, 10.0), Moments(1000, 0.1, 1.0))

    points = [Evaluation(n, n * 10, risk(a), risk(b), float(n)) for n, (a, b) in enumerate(losses, 1)]
    best = min(points, key=lambda point: point.generalization.loss.mean)
    nothing = Risk(Moments(), Moments())
    result = Result("epochs", "", len(points), 10, 1.0, tuple(points), best, 0.0, None, nothing, {}, tmp_path)
    first, second = in_two_sentences(result).split(". Try ")
    assert f"{first}.".startswith(starts) and f"Try {second}".startswith(tries)
    of_end = f"{points[-1].gap_of_loss.value:+.4f}"
    assert of_end in first or "diverged" in first, "the verdict is of the last measurement, and so is the gap"
    kept = f"; kept are those of pass {best.passes:.0f}, with {best.generalization.loss.mean:.4f} ± "
    assert (kept in first) == (best is not points[-1] and "diverged" not in first)


def test_the_end_says_what_measuring_took_and_what_lowers_it_where_it_is_much(tmp_path: Path) -> None:
    result, _ = run(of_prices(tmp_path), tmp_path)
    assert 0 < result.measuring < 1 and result.summary()["measuring_fraction_of_time"] == result.measuring
    much, little = (dataclasses.replace(result, measuring=part) for part in (0.321, 0.05))
    says = "measuring the risks took 0.32 of the time: evaluate.examples or .until lowers it"
    assert says in table({"epochs": much}) and says in description("epochs", much)
    assert re.search(
        r"^measuring +0.32 of the time +0.05 of the time$", table({"much": much, "little": little}), re.MULTILINE
    )
    assert "evaluate.examples" not in table({"epochs": little}) + description("epochs", little)
