"""No circle of modules, also through imports inside functions and through modules that a string names; names, sizes.

What only the type checker imports is no edge: it never runs.
"""

import ast
import graphlib
from collections import Counter

import pytest

from tests.rules.test_house import FILES, TREES, relative


def dotted(file_name: str) -> str:
    return file_name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {dotted(relative(file)): tree for file, tree in TREES.items()}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def running(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING``."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        found.append(node)
        if is_for_types(node):
            left += node.orelse
        else:
            left += ast.iter_child_nodes(node)
    return found


def imports(tree: ast.AST) -> set[str]:
    """Modules of ours that a module imports, wherever in it; with those that it names in a string that is only that."""
    found: set[str] = set()
    for node in running(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inner}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.partition(":")[0])
    return found & MODULES.keys()


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_modules() -> None:
    # `streamtrain` itself is what users import; the string of its own name is the package's, not a module's
    graph = {name: imports(tree) - {name, "streamtrain"} for name, tree in MODULES.items()}
    assert sum(map(len, graph.values())) > 500, "edges are found"
    assert circle(graph) == []


def test_nobody_inside_imports_the_public_names() -> None:
    """Who did would be in a circle with all that they name."""
    inside = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name == "streamtrain" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "streamtrain")
    }
    assert inside == set()


@pytest.mark.parametrize("line", ["import streamtrain.store.local", "load('streamtrain.store.local')"])
def test_a_circle_is_found_through_a_string_and_inside_a_function(line: str) -> None:
    there = imports(ast.parse(f"def later():\n    {line}"))
    assert there == {"streamtrain.store.local"}
    assert set(circle({"streamtrain.store.local": {"a"}, "a": there})) == {"a", "streamtrain.store.local"}


def test_a_file_name_stands_once() -> None:
    names = Counter(file.name for file in FILES if not file.name.startswith("__"))
    assert sum(count > 1 for count in names.values()) <= 3, [name for name, count in names.items() if count > 1]


def test_no_file_stands_just_under_the_limit() -> None:
    """Lines were packed, or an idea was cut, where a file ends there."""
    near = [relative(file) for file in FILES if 370 <= len(file.read_text().splitlines()) <= 400]
    assert not near, "split it where the idea ends"
