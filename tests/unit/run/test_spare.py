"""The process beside is lost: it is called again, however early that was; given up, it is not."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

import streamtrain as st
from streamtrain.errors import ConfigError, TrainingError, WorkerLost
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors import spare as spare_module
from streamtrain.run.fleet.actors.spare import MOST_LOSSES, SpareProcess
from streamtrain.run.fleet.cluster import placing
from streamtrain.run.fleet.cluster.room import GroupBundle, Place
from streamtrain.run.fleet.likeness import Likeness
from streamtrain.values import Fingerprint
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


def test_what_it_waits_for_is_said(spare: Any) -> None:
    found, _ = spare(Dying)
    group: Any = None
    found._slot = GroupBundle(group, 0)
    found._room.places = lambda slots: {number: Place("a node", "10.0.0.7") for number in slots}
    assert found.waits_for() == "a process on 10.0.0.7"
    found._room.places = lambda slots: {}
    nowhere = "its node is lost, and no other has room for 1 measurer(s) of 1 CPU"
    assert found.waits_for() == f"a process that has no place: {nowhere}"


@pytest.mark.parametrize(("bits", "refused"), [("same", True), ("any", False)])
def test_who_computes_other_bits_than_the_workers_is_refused(
    spare: Any, monkeypatch: pytest.MonkeyPatch, bits: str, refused: bool
) -> None:
    """At the beginning, and where it is called again on another host."""
    found, plans = spare(SpareProcess)
    group: Any = None
    found._slot = GroupBundle(group, 0)
    host = {"now": Fingerprint("10.0.0.1", {"CPU": "Xeon"})}
    other = Fingerprint("10.0.0.9", {"CPU": "EPYC"})

    def called(*_: object) -> Any:
        fingerprint = SimpleNamespace(remote=lambda: host["now"])
        return SimpleNamespace(remote=lambda plan: SimpleNamespace(fingerprint=fingerprint))

    monkeypatch.setattr(spare_module, "actor_class", called)
    monkeypatch.setattr(spare_module, "gather", list)
    monkeypatch.setattr(spare_module, "kill", lambda actors: None)
    said: list[str] = []
    likeness = Likeness(dataclasses.replace(plans.job, bits=bits), None, said.append)
    likeness.check([Fingerprint("10.0.0.2", {"CPU": "Xeon"})])
    found._call()
    found.must_be_like(likeness)
    found._end()
    host["now"] = other
    told = "CPU Xeon on 10.0.0.2 and EPYC on 10.0.0.9"
    if refused:
        with pytest.raises(ConfigError, match=f"bits: expected workers that compute the same bits, found .*{told}"):
            found._call()
        with pytest.raises(ConfigError, match="use hosts and libraries of one kind"):
            found.must_be_like(likeness)
    else:
        found._call()
        assert said == [f"bits may differ from host to host, as bits=any allows: {told}"]


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


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"),
    [
        ((4, 2), 4, 0),  # on the first there is room for the four, and for nobody else
        ((4, 2), 3, None),
        ((4, 4), 4, None),  # on one of them
        ((2, 4, 1), 4, 1),
        ((2, 2), 4, None),  # no node holds them: that is refused elsewhere
    ],
)
def test_the_only_node_for_workers_who_must_be_together_is_known(
    spare: Any, monkeypatch: pytest.MonkeyPatch, cpus: tuple[int, ...], workers: int, expected: int | None
) -> None:
    _, plans = spare(SpareProcess)
    nodes = [{"NodeID": f"node{number}", "Resources": {"CPU": float(each)}} for number, each in enumerate(cpus)]
    monkeypatch.setattr(placing, "living_nodes", lambda: nodes)
    job = dataclasses.replace(plans.job, workers=workers, lanes=12, batch_size=120)
    assert placing.lone_node(job) == (None if expected is None else f"node{expected}")
