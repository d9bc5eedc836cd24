"""Which settings may change when a run goes on: each field says so, and who says nothing is refused."""

import dataclasses
from dataclasses import dataclass, field

import pytest

import streamtrain as st
from streamtrain.job.settings import MayChange, settings_of

MAY_CHANGE = {
    *("workers", "placement", "streamers", "threads", "exchange", "device", "profile", "bits", "audit_every"),
    *("max_steps", "max_seconds", "probe_every", "probe_examples", "error_unit", "listeners", "on_listener_error"),
    *("evaluate.max_fraction_of_time", "evaluate.every", "evaluate.examples", "evaluate.until", "evaluate.splits"),
    "evaluate.beside",
    *("data.url", "data.verify", "data.cache", "data.cache_bytes", "data.decode_threads", "data.streamers"),
    *(
        f"{part}.{each.name}"
        for part in ("tracking", "checkpoints")
        for each in dataclasses.fields(getattr(st, part.title()))
    ),
}
OF_MODE = {"epochs": {"mode.max_passes", "mode.patience", "mode.patience_examples"}, "online": {"mode.idle_timeout"}}


def job(mode: st.Online | st.Epochs) -> st.Job:
    return st.Job(st.Data("nowhere"), model=lambda: None, mode=mode, optimizer=st.SGD())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("mode", [st.Online(), st.Epochs()], ids=["online", "epochs"])
def test_only_these_may_change(mode: st.Online | st.Epochs) -> None:
    found = list(settings_of(job(mode)))
    free = {each.name for each in found if each.may_change}
    assert free == MAY_CHANGE | OF_MODE[type(mode).__name__.lower()]
    assert {"batch_size", "lanes", "seed", "optimizer.lr", "mode", "data.map", "model", "precision"} <= {
        each.name for each in found if not each.may_change
    }


@pytest.mark.parametrize("mode", [st.Online(), st.Epochs()], ids=["online", "epochs"])
def test_every_field_of_a_job_and_its_parts_is_a_setting(mode: st.Online | st.Epochs) -> None:
    def names(declared: object, prefix: str) -> set[str]:
        found: set[str] = set()
        for each in dataclasses.fields(declared):  # type: ignore[arg-type]
            value = getattr(declared, each.name)
            name = prefix + each.name
            found |= names(value, name + ".") if dataclasses.is_dataclass(value) else {name}
        return found

    assert {each.name for each in settings_of(job(mode))} == names(job(mode), "") | {"mode", "optimizer"}


@dataclass(frozen=True)
class Part:
    new: int = 1
    free: MayChange[int] = 2


@dataclass(frozen=True)
class Declared:
    fixed: Part = field(default_factory=Part)
    all_free: MayChange[Part] = field(default_factory=Part)
    other: int = 3


def test_who_says_nothing_is_refused_and_a_part_says_it_for_all_within() -> None:
    assert [(each.name, each.may_change) for each in settings_of(Declared())] == [
        ("fixed.new", False),
        ("fixed.free", True),
        ("all_free.new", True),
        ("all_free.free", True),
        ("other", False),
    ]
