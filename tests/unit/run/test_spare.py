"""The process beside is lost: it is called again, however early that was; given up, it is not."""

from pathlib import Path
from typing import Any

import pytest
import ray

import streamtrain as st
from streamtrain.errors import TrainingError, WorkerLost
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.spare import MOST_LOSSES, SpareProcess
from tests.support.datasets import pack_digits


class Dying(SpareProcess):
    """Its processes die where they are called, so many times."""

    deaths = 0

    def _call(self) -> Any:
        self._actor = object()
        self.deaths -= 1
        if self.deaths >= 0:
            raise WorkerLost("a process of one's own died at its beginning")
        return self._actor

    def _measured(self, *_: Any) -> Any:
        return "a measurement"

    def _end(self) -> None:
        self._actor = None


class GivenUp(Dying):
    def _call(self) -> Any:
        super()._call()
        self.give_up()
        raise WorkerLost("it was ended")


@pytest.fixture
def spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pack_digits(tmp_path / "digits", examples=100)
    monkeypatch.setattr(ray, "put", lambda value: value)
    plans = plan(st.Job(st.Data(str(tmp_path / "digits")), dict))  # type: ignore[arg-type]
    return lambda kind: (kind(plans, print), plans)


def test_who_is_lost_at_its_beginning_is_called_again(spare: Any) -> None:
    found, plans = spare(Dying)
    found.deaths = MOST_LOSSES - 1
    assert found.at(plans, {}, lambda _: None) == "a measurement"
    found._end()
    found.deaths = MOST_LOSSES
    with pytest.raises(TrainingError, match="was lost 8 times in one measurement"):
        found.at(plans, {}, lambda _: None)


def test_who_is_given_up_at_its_beginning_is_not(spare: Any) -> None:
    found, plans = spare(GivenUp)
    with pytest.raises(WorkerLost, match="it was ended"):
        found.at(plans, {}, lambda _: None)
