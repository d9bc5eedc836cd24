"""What is used of Ray beside its public interface: all in one file, each said what for, and still where it was."""

import ast
import functools
import importlib
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray._private.node import Node
from ray._private.services import RAYLET_EXECUTABLE

from streamtrain.run.fleet.cluster.ray_private import USED
from streamtrain.run.fleet.cluster.starting import OWN
from tests.rules.test_house import TREES, relative

ROOM = "streamtrain/run/fleet/cluster/ray_private.py"


def private_names(tree: ast.Module) -> set[str]:
    """Dotted names below ``ray._…`` that a module uses or imports, each as far as it is written out."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("ray._") and "(" not in name}


def test_one_file_uses_what_ray_does_not_promise() -> None:
    assert {relative(file) for file, tree in TREES.items() if private_names(tree)} == {ROOM}


def test_all_that_it_uses_is_listed() -> None:
    (tree,) = (tree for file, tree in TREES.items() if relative(file) == ROOM)
    loose = {name for name in private_names(tree) if not any(used.startswith(name) for used in USED)}
    assert not loose, "say in USED what these are for"


@pytest.mark.parametrize("name", USED)
def test_ray_still_has(name: str) -> None:
    """A failure here says which one a new version of Ray has moved."""
    module, _, attribute = name.rpartition(".")
    path = [attribute]
    while True:
        try:
            holder = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, outer = module.rpartition(".")
            path.insert(0, outer)
    try:
        functools.reduce(getattr, path, holder)
    except AttributeError:
        pytest.fail(f"Ray {ray.__version__} has no {name} any more, which is used {USED[name]}")


def test_ray_still_lists_the_processes_that_it_started() -> None:
    """By these names, in an attribute of a node that only its constructor makes."""
    assert "all_processes" in Node.__init__.__code__.co_names
    assert (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET) == ("gcs_server", "raylet")


@pytest.mark.parametrize("name", [name for settings in OWN for name in settings])
def test_a_node_still_reads_the_setting(name: str) -> None:
    """Ray passes over variables that it does not know."""
    assert name.encode() in Path(RAYLET_EXECUTABLE).read_bytes()
