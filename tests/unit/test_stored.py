"""Everything stateful of a run declares its state: after JSON it is the same, bit by bit, and goes on the same."""

import dataclasses
import importlib
import json
import math
import pkgutil
from collections import deque
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import hypothesis.strategies as some
import pytest
from hypothesis import given, settings

import streamtrain.measure
from streamtrain.measure.run_curves import Measures
from streamtrain.run.checkpoints.progress import Progress
from streamtrain.stored import Stored
from streamtrain.values import SliceRisk  # on its way to be pooled, never in a file

for module in pkgutil.walk_packages(streamtrain.measure.__path__, "streamtrain.measure."):
    importlib.import_module(module.name)


def subclasses(of: type) -> set[type]:
    return {each for direct in of.__subclasses__() for each in (direct, *subclasses(direct))}


STORED = sorted(
    (each for each in subclasses(Stored) if each.__module__.startswith("streamtrain.") and each is not SliceRisk),
    key=lambda each: each.__name__,
)


def values_of(kind: Any) -> some.SearchStrategy[Any]:
    """Any value of a declared type, however odd its floats."""
    origin, parts = get_origin(kind), get_args(kind)
    if type(None) in parts:
        (other,) = (each for each in parts if each is not type(None))
        return some.none() | values_of(other)
    if isinstance(kind, type) and issubclass(kind, Stored):
        return some.builds(kind, **{name: values_of(each) for name, each in declared(kind).items()})
    if origin is tuple and parts[1:] != (Ellipsis,):
        return some.tuples(*map(values_of, parts))
    if origin is dict:
        return some.dictionaries(values_of(parts[0]), values_of(parts[1]), max_size=3)
    if origin in (list, tuple, deque):
        return some.lists(values_of(parts[0]), max_size=3).map(origin)
    plain: dict[Any, some.SearchStrategy[Any]] = {float: some.floats(), int: some.integers(), str: some.text()}
    return {**plain, bool: some.booleans()}[kind]


def declared(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def bits(value: Any) -> Any:
    """What can be compared: floats by their bits, classes by name."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, (list, tuple, deque)):
        return type(value).__name__, [bits(each) for each in value]
    if isinstance(value, dict):
        return [(bits(key), bits(each)) for key, each in value.items()]
    if isinstance(value, Stored):
        return type(value).__name__, [(name, bits(getattr(value, name))) for name in declared(type(value))]
    return type(value).__name__, value


@pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.__name__)
@given(data=some.data())
@settings(max_examples=25)
def test_promise_5_every_declared_state_is_the_same_after_json(kind: type[Stored], data: some.DataObject) -> None:
    value = data.draw(values_of(kind))
    assert bits(kind.from_json(json.loads(json.dumps(value.to_json())))) == bits(value)


def test_the_measures_that_remember_are_all_declared() -> None:
    """Whatever keeps attributes of its own in a checkpoint's classes has them as fields."""
    assert {"EarlyStopping", "Evaluation", "Measures", "MeasuringTime", "PassRisks", "Progress", "Window"} <= {
        each.__name__ for each in STORED
    }
    for kind in STORED:
        assert dataclasses.is_dataclass(kind) and "__init__" in vars(kind), kind
        assert not any(name.startswith("_") for name in declared(kind)), kind


class Undeclared:
    """Keeps a count that no checkpoint knows of."""

    def __init__(self) -> None:
        self.count = 3


class Fieldless(Stored):
    """Derives from the base, and declares nothing."""


@dataclasses.dataclass
class Holder(Stored):
    """Declares a field whose value declares nothing."""

    inner: Any


@dataclasses.dataclass
class Numbers(Stored):
    """One field of each plain kind."""

    whole: int
    ratio: float
    yes: bool
    pair: tuple[int, str]


@pytest.mark.parametrize("value", [Undeclared(), Path("x"), {1: [Undeclared()]}, 1j])
def test_a_class_without_a_declaration_is_refused_by_name(value: Any) -> None:
    with pytest.raises(
        TypeError, match=r"(Undeclared|PosixPath|complex) declares nothing that a checkpoint could hold"
    ):
        Holder(value).to_json()


def test_a_class_that_declares_no_fields_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Fieldless declares no fields, so a checkpoint cannot hold it"):
        Fieldless().to_json()
    with pytest.raises(TypeError, match="Fieldless declares no fields, so a checkpoint cannot hold it"):
        Fieldless.from_json({})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("whole", each) for each in (1.0, True, "1", None, [1], {})),
        *(("ratio", each) for each in ("nan", True, None)),
        *(("yes", each) for each in (1, 0.0, "true")),
        *(("pair", each) for each in ([1], [1, "a", "b"], ["a", 1], {"0": 1}, "1a", None)),
    ],
)
def test_what_no_value_gave_is_refused(field: str, value: Any) -> None:
    good = Numbers(1, 0.5, True, (2, "b")).to_json()
    assert Numbers.from_json(good) == Numbers(1, 0.5, True, (2, "b"))
    with pytest.raises(ValueError, match="not a checkpoint's value: "):
        Numbers.from_json({**good, field: value})
    for other in ({**good, "more": 1}, {key: each for key, each in good.items() if key != field}, [], None, "x"):
        with pytest.raises(ValueError, match="not a checkpoint's Numbers: "):
            Numbers.from_json(other)


def test_a_checkpoint_of_other_classes_is_refused() -> None:
    """Names in it are looked up nowhere: they are keys that must be those of the fields."""
    with pytest.raises(ValueError, match="not a checkpoint's Measures"):
        Measures.from_json({"Path": {"x": 1}})
    with pytest.raises(ValueError, match="not a checkpoint's Progress"):
        Progress.from_json({"step": 3})
