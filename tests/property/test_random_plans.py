"""Runs by random settings, ended and gone on with at random: bits and points of a run that nothing happened to."""

from pathlib import Path

import pytest

from tests.support.datasets import pack_digits
from tests.support.random_plans import RandomPlan, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=400)
    return folder


@pytest.mark.parametrize("number", range(20))
def test_promises_5_and_7_random_plans(number: int, data: Path, tmp_path: Path) -> None:
    plan = RandomPlan.draw(number)
    whole = run(plan.job(data, tmp_path / "whole"), None, beside=plan.beside)
    assert whole.ended == "done"
    job = plan.job(data, tmp_path / "ended")
    ended: list[str] = []
    for end in (*plan.ends, None):
        last = run(job, end, resume=True, beside=plan.beside)
        ended.append(last.ended)
        if last.ended == "done":  # before its end came
            break
    assert (last.ended, last.sha256) == ("done", whole.sha256), (plan, ended)
    assert last.points == whole.points, (plan, ended)
    if plan.beside and not plan.settings["listeners"]:
        waiting = run(plan.job(data, tmp_path / "waiting"), None)
        assert (waiting.sha256, dict(waiting.points)["evaluations"]) == (
            whole.sha256,
            dict(whole.points)["evaluations"],
        )
    branches = [plan.branch(data, tmp_path / each) for each in ("whole", "ended")]
    how = {"resume": True, "branch": True, "more_passes": 1, "beside": plan.beside}
    of_whole, of_ended = (run(each, None, **how) if each else None for each in branches)
    assert of_whole == of_ended, plan
    if of_whole is not None:
        assert of_whole.ended == "done"
        assert dict(of_whole.points)["evaluations"] != dict(whole.points)["evaluations"], "it has gone on"
