"""Checks of declared settings: each raises the one line that a wrong setting is answered with."""

from __future__ import annotations

import math

from streamtrain.errors import ConfigError, complaint


def require(holds: bool, setting: str, expected: str, found: object, do: str) -> None:
    """Raises `ConfigError` unless ``holds``."""
    if not holds:
        raise ConfigError(complaint(setting, expected=expected, found=repr(found), do=do))


def require_finite(setting: str, value: float, *, positive: bool) -> None:
    """A finite number, above 0 or at least 0."""
    bound = "above 0" if positive else "of at least 0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    holds = number and math.isfinite(value) and (value > 0 if positive else value >= 0)
    require(holds, setting, f"a finite number {bound}", value, f"choose a number {bound}")


def require_count(setting: str, value: int | None, lowest: int = 1) -> None:
    """A whole number, or ``None``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    holds = value is None or (whole and value >= lowest)
    require(holds, setting, f"a whole number of at least {lowest}", value, f"choose {lowest} or more")


def require_part(setting: str, value: float) -> None:
    """A number of at least 0 and below 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 <= value < 1, setting, "at least 0 and below 1", value, "choose such a number, e.g. 0.9")


def require_betas(setting: str, values: tuple[float, float]) -> None:
    """Two numbers of at least 0 and below 1."""
    two = isinstance(values, (tuple, list)) and len(values) == 2
    require(two, setting, "two numbers", values, "e.g. (0.9, 0.999)")
    for value in values:
        require_part(setting, value)
