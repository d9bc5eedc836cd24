"""Promise 10 of every setting there is: a value of another kind is one line that names it, at the declaration."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import streamtrain as st
from streamtrain.checks import require_declared
from streamtrain.errors import ConfigError

NEEDED: dict[type, dict[str, Any]] = {
    st.Job: {"data": st.Data("data/x"), "model": lambda: None},
    st.Data: {"url": "data/x"},
    st.BatchSize: {"sizes": {0: 64}},
    st.Pad: {"field": "tokens"},
    st.Pack: {"fields": "tokens", "length": 8},
    st.Balanced: {"field": "label"},
    st.Mixture: {"shares": {"data/a": 0.5, "data/b": 0.5}},
    st.Torch: {"make": lambda parameters: parameters},
}
OTHERWISE = {st.Optimizer, st.Group, st.Weighted}
"""Without fields to declare, with a constructor of its own, and values of examples."""
DECLARATIONS = [
    st.Job,
    st.Data,
    st.Online,
    st.Epochs,
    st.Clip,
    st.Schedule,
    st.Average,
    st.BatchSize,
    st.Pad,
    st.Pack,
    st.Balanced,
    st.Mixture,
    st.Evaluate,
    st.Checkpoints,
    st.Tracking,
    st.Synchronous,
    st.Stale,
    st.PackOptions,
    st.SGD,
    st.Adam,
    st.AdamW,
    st.Lion,
    st.Muon,
    st.RMSprop,
    st.Adagrad,
    st.Torch,
]


def alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def settings(*, simple: bool) -> Iterator[Any]:
    for declaration in DECLARATIONS:
        hints = get_type_hints(declaration)
        for field in dataclasses.fields(declaration):
            kinds = alternatives(hints[field.name])
            plain = all(kind in (bool, int, float, str, type(None)) or get_origin(kind) is Literal for kind in kinds)
            if plain if simple else type(None) not in kinds and Any not in kinds:
                yield pytest.param(declaration, field.name, id=f"{declaration.__name__}.{field.name}")


def refused(declaration: type, name: str, value: object) -> str:
    with pytest.raises(ConfigError) as told:
        declaration(**{**NEEDED.get(declaration, {}), name: value})
    return str(told.value)


@pytest.mark.parametrize(("declaration", "name"), settings(simple=False))
def test_promise_10_none_where_something_is_needed(declaration: type, name: str) -> None:
    line = refused(declaration, name, None)
    assert name in line and "None" in line and "\n" not in line


@pytest.mark.parametrize(("declaration", "name"), settings(simple=True))
def test_promise_10_a_value_of_another_kind(declaration: type, name: str) -> None:
    line = refused(declaration, name, ("no", "such"))
    assert name in line and "such" in line and "\n" not in line


def test_every_declaration_of_the_package_is_looked_at() -> None:
    """A new one is held to the same by its place in this list."""
    homes = ("streamtrain.job.", "streamtrain.packing.options", "streamtrain.aggregate.optimizers.")
    public = [getattr(st, name) for name in dir(st)]
    declared = {each for each in public if isinstance(each, type) and dataclasses.is_dataclass(each)}
    declared = {each for each in declared if each.__module__.startswith(homes)}
    assert declared == set(DECLARATIONS) | OTHERWISE


def test_a_class_whose_annotations_cannot_be_resolved_is_not_looked_at() -> None:
    rule = dataclasses.make_dataclass("Rule", [("decay", "NotThere", 0.5)])
    require_declared(rule(None), "optimizer.")
