"""What the extras of pyproject.toml bring along, as far as it is installed here."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
OTHER_TORCH = {"torchvision", "torchaudio"}
"""Each release of these wants one release of torch, and takes it from the index: the CPU build would be replaced."""
BRING_IT = {"litdata", "mosaicml-streaming"}
"""Known to need them: in tests/benchmarks/peers.txt, without their dependencies."""


def brought(wanted: str, seen: set[str]) -> set[str]:
    """Names of all packages that a requirement leads to, itself too."""
    requirement = Requirement(wanted)
    name = requirement.name.lower().replace("_", "-")
    if name in seen or not any(_holds(requirement, extra) for extra in ("", *requirement.extras)):
        return seen
    seen.add(name)
    try:
        needs = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return seen
    for each in needs:
        inner = Requirement(each)
        if any(_holds(inner, extra) for extra in ("", *requirement.extras)):
            brought(f"{inner.name}[{','.join(inner.extras)}]" if inner.extras else inner.name, seen)
    return seen


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_no_extra_brings_another_torch(extra: str) -> None:
    for wanted in PROJECT["optional-dependencies"][extra]:
        found = brought(wanted, set())
        assert not found & (OTHER_TORCH | BRING_IT), (wanted, found)


def test_what_a_requirement_leads_to_is_found() -> None:
    assert {"torch", "sympy", "mpmath"} <= brought("torch>=2", set())
    assert "aiohttp-cors" in brought("ray[default]", set()) - brought("ray", set())
