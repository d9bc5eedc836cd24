"""What more passes were worth: a power law against scipy's fit, known answers, and what cannot be told."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

import streamtrain as st
from streamtrain.measure.comparison import Point, reuse, reuse_of_runs
from streamtrain.measure.comparison.power_law import fit
from tests.coverage.passes_worth import SIZES, law, measured

PLACES = np.linspace(5000, 50_000, 10)


def test_the_law_is_that_of_scipys_fit() -> None:
    generator = np.random.default_rng(0)
    losses = law(PLACES) + 0.003 * generator.normal(size=10)
    weights = generator.random(10) + 0.5

    def curve(n: Any, floor: float, scale: float, exponent: float) -> Any:
        return floor + scale * n**-exponent

    expected, _ = curve_fit(curve, PLACES, losses, (0.1, 30, 0.5), sigma=weights**-0.5, maxfev=20_000)
    (found,) = fit(PLACES, losses[None], weights).at(PLACES)
    assert found == pytest.approx(curve(PLACES, *expected), rel=1e-4)


def test_a_law_without_noise_is_found_and_its_numbers_are_not_negative() -> None:
    laws = fit(PLACES, np.stack([law(PLACES), 30 * PLACES**-0.4, np.linspace(1, 2, 10)]), np.ones(10))
    assert laws.exponent[:2] == pytest.approx([0.5, 0.4], rel=1e-3)
    assert laws.floor == pytest.approx([0.1, 0, 1.5], abs=1e-3) and laws.scale[2] == 0
    assert laws.reached(np.array([law(20_000.0), 30 * 7e4**-0.4, 1.4]))[:2] == pytest.approx([20_000, 70_000], rel=1e-3)
    assert laws.reached(np.array([0.05, 1.0, 1.4])).tolist()[::2] == [math.inf, math.inf]
    far = 1e-3 * np.array([20_000.0, 20_000.0, 1.0])
    change = (laws.at(20_000.0 - far[:1]) - laws.at(20_000.0 + far[:1]))[:2, 0] / 2e-3
    assert laws.slopes(np.full(3, 20_000.0))[:2] == pytest.approx(change, rel=1e-3)


def test_a_known_answer_comes_back_with_its_error() -> None:
    generator = np.random.default_rng(1)
    hard = generator.normal(size=len(SIZES))
    one = [measured(int(n), law(n), hard, 0.0, generator) for n in PLACES]
    found = reuse(7, 6000, measured(0, law(3.1 * 6000), hard, 0.0, generator), one)
    assert found is not None and found.times == pytest.approx(3.1, abs=3 * found.standard_error)
    assert 0.05 < found.standard_error < 0.4 and found.measured_to == pytest.approx(50 / 6)
    assert found.words == (
        f"7 passes over 6,000 examples were worth {found.times:.2f} ± {found.standard_error:.2f} "
        "times the data in one pass"
    )
    beyond = dataclasses.replace(found, times=9.0)
    assert beyond.words.endswith("times the data in one pass, extrapolated: one pass was measured up to 8.33")
    several = [dataclasses.replace(found, times=times) for times in (2.0, 3.0, 4.0)]
    assert reuse_of_runs(several).times == 3 and reuse_of_runs(several).standard_error == pytest.approx(3**-0.5)


def test_what_one_pass_never_reaches_is_said_to_be_more_than_was_measured() -> None:
    generator = np.random.default_rng(2)
    hard = generator.normal(size=len(SIZES))
    one = [measured(int(n), law(n), hard, 0.0, generator) for n in PLACES]
    found = reuse(20, 6000, measured(0, 0.05, hard, 0.0, generator), one)
    assert found is not None and found.times == math.inf
    assert found.words.endswith("were worth more than 8.33 times the data in one pass, as far as was measured")
    assert reuse(20, 6000, one[0], one[:3]) is None
    assert reuse(20, 6000, dataclasses.replace(one[0], examples=(1,) * len(SIZES)), one) is None


def summary(mode: str, points: list[tuple[float, int, Point]]) -> dict[str, Any]:
    evaluations = [
        {
            "step": used // 50,
            "passes": passes,
            "examples_used": used,
            "generalization_risk": {"loss": at.mean, "loss_standard_error": at.standard_error},
            "generalization_risk_parts": {"examples": list(at.examples), "means": {"loss": list(at.parts)}},
        }
        for passes, used, at in points
    ]
    last = evaluations[-1]
    return {"mode": mode, "passes": last["passes"], "steps": last["step"], "chosen_step": last["step"]} | {
        "evaluations": evaluations,
        "folder": mode,
    }


def kept(folder: Path, run: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(run))
    return str(folder)


def test_compare_says_what_passes_were_worth(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(size=len(SIZES))
    worth = {1: 1.0, 2: 1.9, 7: 3.1}
    many = [(k, k * 6000, measured(0, law(6000 * of), hard, 0.0, generator)) for k, of in worth.items()]
    first = kept(tmp_path / "many", summary("epochs", many))  # type: ignore[arg-type]
    way = [(n / 50_000, int(n), measured(0, law(n), hard, 0.0, generator)) for n in PLACES]
    second = kept(tmp_path / "one", summary("online", way))
    found = st.compare(first, second)
    assert found.worth is not None and [each.passes for each in found.worth.each] == [1, 2, 7]
    for each, of in zip(found.worth.each, worth.values(), strict=True):
        assert each.times == pytest.approx(of, abs=3.5 * each.standard_error)
    assert found.worth.kept.words in found.table and "right with a constant learning rate" in found.notes[-1]
    assert found.summary()["passes_worth"]["says"] == found.worth.kept.words
    again = st.compare(second, first)
    assert again.worth == found.worth
    ends = [
        kept(tmp_path / f"one{n:.0f}", summary("online", [(1.0, int(n), at)]))
        for n, (_, _, at) in zip(PLACES, way, strict=True)
    ]
    of_ends = st.compare(first, ends)
    assert of_ends.worth is not None and of_ends.worth.each == found.worth.each and of_ends.differences == {}
    assert of_ends.says == found.worth.kept.words in of_ends.table and not of_ends.notes
    assert json.loads(json.dumps(of_ends.summary()))["passes_worth"]["kept"]["passes"] == 7


def test_other_held_out_examples_give_no_worth(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    hard = generator.normal(size=len(SIZES))
    many = summary("epochs", [(2, 12_000, measured(0, 0.3, hard, 0.0, generator))])
    way = summary("online", [(n / 5e4, int(n), measured(0, law(n), hard, 0.0, generator)) for n in PLACES])
    for evaluation in way["evaluations"]:
        evaluation["generalization_risk_parts"] = None
    found = st.compare(kept(tmp_path / "a", many), kept(tmp_path / "b", way))
    assert found.worth is None and "takes runs measured on as many held-out examples" in found.notes[-1]
