"""Every ± and every promised rate against a known answer; the slow ones, and the table, by `make coverage`."""

import functools
import os
from pathlib import Path

import pytest

from tests.coverage import (
    audit_alarms,
    comparisons,
    directions,
    gradient_noise,
    passes_worth,
    progressive_errors,
    risks,
    small_samples,
    until_enough,
    verdicts,
)
from tests.coverage.simulation import Row, Simulation, interval, rate, table

MODULES = {
    "audit": audit_alarms,
    "verdict": verdicts,
    "risks": risks,
    "progressive": progressive_errors,
    "small samples": small_samples,
    "gradient noise": gradient_noise,
    "directions": directions,
    "comparisons": comparisons,
    "passes' worth": passes_worth,
    "until enough": until_enough,
}
FAST: dict[str, Simulation] = {name: module.fast for name, module in MODULES.items()}
SLOW: dict[str, Simulation] = {
    f"audit, {kind}": functools.partial(audit_alarms.grid, kind) for kind in audit_alarms.KINDS
} | {name: module.slow for name, module in MODULES.items()}
PAGES = "COVERAGE_TABLES"
"""Variable that names a folder for the tables, a file for each simulation."""


@pytest.mark.parametrize("name", FAST)
def test_a_few_cells_hold(name: str) -> None:
    check(FAST[name]())


@pytest.mark.coverage
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SLOW)
def test_everything_holds(name: str) -> None:
    rows = SLOW[name]()
    if PAGES in os.environ:
        (Path(os.environ[PAGES]) / f"{name}.md").write_text(table(rows) + "\n")
    check(rows)


def check(rows: list[Row]) -> None:
    wrong = [row for row in rows if row.holds is False]
    assert rows and not wrong, "\n".join(f"{row.quantity} ({row.truth}): {row.found}, {row.claimed}" for row in wrong)


def test_what_is_wrong_is_found() -> None:
    """An error half as large as it should be, one twice as large, and a rate that is three times the stated."""
    import numpy as np

    values = np.random.default_rng(0).normal(size=400)
    assert interval("right", 0.0, values, np.full(400, 1.0)).holds
    assert interval("half", 0.0, values, np.full(400, 0.5)).holds is False
    assert interval("double", 0.0, values, np.full(400, 2.0)).holds is False
    assert interval("double", 0.0, values, np.full(400, 2.0), or_more="it is a bound").holds
    assert interval("half", 0.0, values, np.full(400, 0.5), or_more="it is a bound").holds is False
    assert interval("half", 0.0, values, np.full(400, 0.5), but="known").holds is None
    assert not rate("alarms", "none", [number % 7 == 0 for number in range(400)], at_most=0.05).holds
    assert rate("alarms", "none", [number % 20 == 0 for number in range(400)], at_most=0.05).holds
    assert not rate("seen", "all", [number % 3 > 0 for number in range(400)], at_least=0.75).holds
