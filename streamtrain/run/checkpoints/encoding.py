"""What a run knows about itself as JSON, and back, bit by bit; nothing but the classes named here is ever made."""

from __future__ import annotations

from collections import deque
from typing import Any

from streamtrain.measure.cost import MeasuringTime
from streamtrain.measure.diagnostics import Diagnostics
from streamtrain.measure.diagnostics.layers import Layers
from streamtrain.measure.diagnostics.noise_scale import NoiseScale
from streamtrain.measure.diagnostics.trajectory import Trajectory
from streamtrain.measure.early_stopping import EarlyStopping
from streamtrain.measure.gap import Parts
from streamtrain.measure.progressive import PassRisks, Progressive
from streamtrain.measure.progressive.fading import Fading, FadingMoments
from streamtrain.measure.progressive.window import Window
from streamtrain.measure.step_curves import MinibatchCurves
from streamtrain.run.outcome.result import Evaluation
from streamtrain.values import LayerNorms, Moments, Norms, Risk, Skip, Update

CLASSES: dict[str, type] = {
    each.__name__: each
    for each in (
        *(Diagnostics, EarlyStopping, Evaluation, Fading, FadingMoments, LayerNorms, Layers, MeasuringTime),
        *(
            MinibatchCurves,
            Moments,
            NoiseScale,
            Norms,
            Parts,
            PassRisks,
            Progressive,
            Risk,
            Skip,
            Trajectory,
            Update,
            Window,
        ),
    )
}


def encoded(value: Any) -> Any:
    """In JSON's types: what JSON has not is an object with one member, its type's name."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [encoded(each) for each in value]
        case tuple():
            return {"tuple": [encoded(each) for each in value]}
        case deque():
            return {"deque": [value.maxlen, *(encoded(each) for each in value)]}
        case dict():
            return {"dict": [[encoded(key), encoded(each)] for key, each in value.items()]}
    name = type(value).__name__
    if CLASSES.get(name) is not type(value):
        raise TypeError(f"{name} is not among the classes of a checkpoint")
    return {name: {attribute: encoded(each) for attribute, each in vars(value).items()}}


def decoded(value: Any) -> Any:
    """The value that was encoded.

    Raises:
        ValueError: not what `encoded` gives.
    """
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    try:
        ((name, content),) = value.items()
        match name:
            case "tuple":
                return tuple(map(decoded, content))
            case "deque":
                return deque(map(decoded, content[1:]), maxlen=content[0])
            case "dict":
                return {decoded(key): decoded(each) for key, each in content}
        made: Any = object.__new__(CLASSES[name])
        made.__dict__.update({attribute: decoded(each) for attribute, each in content.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a checkpoint's value: {str(value)[:60]}") from error
    return made
