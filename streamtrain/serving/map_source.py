"""A job's `map` as source of its own: the statements of the job's file that it needs, and no others.

So a logged model calls the user's function without pickle, and without what only training needs. What is cut out is
called with real examples and has to give the same bits.
"""

from __future__ import annotations

import ast
import importlib.util
import symtable
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from streamtrain.errors import one_line
from streamtrain.job import Job
from streamtrain.values import Arrays

Example = dict[str, Any]
Function = Callable[[Example], Mapping[str, Any]]


class NotShipped(Exception):
    """Why a function cannot be part of a logged model, in one line."""


@dataclass(frozen=True)
class MapSource:
    """A job's `map` that needs no job.

    Attributes:
        source: of a module. function: its name there.
        fields: that it needs of an example, each with the type of its numbers, empty where it is bytes or text.
        zeros: fields that it looks at only for the loss, with type and shape: it gets zeros.
        packages: that the source imports, by the name of the module.
    """

    source: str
    function: str
    fields: Mapping[str, str]
    zeros: Mapping[str, tuple[str, tuple[int, ...]]]
    packages: tuple[str, ...]


def map_source(job: Job, raw: Arrays, made: Arrays, wanted: Sequence[str]) -> MapSource:
    """Cuts it out of the job's file.

    Args:
        raw: examples as `map` gets them, a column a field. made: the same as it returned them.
        wanted: fields of ``made`` that have to be the same.

    Raises:
        NotShipped: it cannot be cut out, needs what is not there, or gives something else.
    """
    function: Any = job.data.map
    module, name = _found(function, job)
    try:
        source = cut_out(Path(str(module.__file__)).read_text(), name)
    except (OSError, SyntaxError, UnicodeError) as error:
        raise NotShipped(f"its file cannot be read again: {one_line(error)}") from None
    packages = imported(source)
    if "streamtrain" in packages:
        raise NotShipped("it needs streamtrain itself")
    for package in packages:
        if _is_neighbour(package, module):
            raise NotShipped(f"it needs {package}, a file beside the job's")
    rows = rows_of(raw)
    expected = [{field: made[field][number] for field in wanted} for number in range(len(rows))]
    if not _gives(function, rows, expected):
        raise NotShipped("it gives something else when it is called again")
    fields, zeros = _needed(function, source, rows, expected, job.data.targets)
    found = MapSource(source, name, {field: _type(raw[field]) for field in fields}, zeros, packages)
    check(found, raw, made, wanted)
    return found


def check(found: MapSource, raw: Arrays, made: Arrays, wanted: Sequence[str]) -> None:
    """Calls what was cut out with these examples.

    Raises:
        NotShipped: it fails, or gives other bits than the job's own function gave.
    """
    rows = [{name: row[name] for name in found.fields} for row in rows_of(raw)]
    for row in rows:
        row.update({name: np.zeros(shape, dtype)[()] for name, (dtype, shape) in found.zeros.items()})
    expected = [{field: made[field][number] for field in wanted} for number in range(len(rows))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "functions.py"
        file.write_text(found.source)
        try:
            same = _gives(getattr(loaded(file), found.function), rows, expected, quiet=False)
        except Exception as error:  # whatever the user's code raises where the rest of its file is missing
            raise NotShipped(f"cut out of its file, it fails: {one_line(error)[:200]}") from None
    if not same:
        raise NotShipped("cut out of its file, it gives something else")


def loaded(file: Path) -> ModuleType:
    """A module out of a file, which no import finds."""
    spec = importlib.util.spec_from_file_location(f"shipped_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(columns: Arrays) -> list[Example]:
    """Examples one by one, as `map` gets them."""
    count = len(next(iter(columns.values())))
    return [{name: column[number] for name, column in columns.items()} for number in range(count)]


def cut_out(source: str, *names: str) -> str:
    """The statements of a module that these names need, in their order, as they are written.

    Raises:
        NotShipped: a star import, behind which any name may be.
    """
    tree = ast.parse(source)
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)):
        raise NotShipped("its file imports *, so that nobody knows what it needs")
    bound = {statement: set(_bound(statement)) for statement in tree.body}
    waiting = list(names)
    wanted: set[str] = set()
    kept: set[ast.stmt] = set()
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        for statement in (each for each, binds in bound.items() if name in binds and each not in kept):
            kept.add(statement)
            waiting += _used(statement) - wanted
            if isinstance(statement, ast.Import | ast.ImportFrom):  # what is set of one module counts for its others
                waiting += bound[statement] - wanted
    lines = source.splitlines()
    text, last = "", 0
    for statement in tree.body:
        if statement in kept or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            first = _start(statement)
            text += "" if not last else "\n" if first == last + 1 else "\n\n\n"
            text += "\n".join(lines[first - 1 : statement.end_lineno])
            last = statement.end_lineno or first
    return text + "\n"


def imported(source: str) -> tuple[str, ...]:
    """Top-level names of the modules that a source imports, wherever in it, but the standard library's."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return tuple(sorted(found - sys.stdlib_module_names - {"__future__"}))


def _found(function: Any, job: Job) -> tuple[ModuleType, str]:
    """The module that has the function under a name, and the name."""
    for each in (function, job.model):
        module = sys.modules.get(str(getattr(each, "__module__", "")))
        file = getattr(module, "__file__", None)
        if module is None or file is None or not Path(file).is_file():
            continue
        for name, value in vars(module).items():
            if value is function:
                return module, name
    raise NotShipped("it has no name of its own in the job's file")


def _is_neighbour(package: str, module: ModuleType) -> bool:
    """Whether what is imported lies beside the job's file: nobody can install it."""
    beside = Path(str(module.__file__)).absolute().parent
    return (beside / f"{package}.py").is_file() or (beside / package / "__init__.py").is_file()


class _LookedAt(dict[str, Any]):
    """An example that notes which of its fields are asked for by their names, there or not."""

    def __init__(self, row: Example, names: set[str]) -> None:
        super().__init__(row)
        self._names = names

    def __getitem__(self, name: str) -> Any:
        self._names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._names.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._names.add(name)
        return super().pop(name, *default)


def _asked_for(function: Function, source: str, rows: Sequence[Example]) -> set[str]:
    """Fields that the function asks for by name: in these examples, or somewhere in its source, as others may need."""
    names = {str(node.value) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    for row in rows:
        function(_LookedAt(row, names))
    return names


def _needed(
    function: Function, source: str, rows: Sequence[Example], expected: Sequence[Example], targets: Sequence[str]
) -> tuple[list[str], dict[str, tuple[str, tuple[int, ...]]]]:
    """Fields that it needs; and targets that may be zeros, since only the loss needs them.

    One that nothing asks for by name is not needed if the same comes out without it. One that is asked for stays, also
    where it made no difference to these examples: `get` goes on without it, and another example may have it.
    """
    given = [dict(row) for row in rows]
    asked = _asked_for(function, source, given)
    fields, zeros = [], {}
    for name in rows[0]:
        without = [{other: value for other, value in row.items() if other != name} for row in given]
        value = np.asarray(rows[0][name])
        filled = [{**row, name: np.zeros_like(value)[()]} for row in given] if value.dtype.kind in "biuf" else given
        if name not in asked and _gives(function, without, expected):
            given = without
        elif name in targets and value.dtype.kind in "biuf" and _gives(function, filled, expected):
            given = filled
            zeros[name] = str(value.dtype), value.shape
        else:
            fields.append(name)
    return fields, zeros


def _gives(function: Function, rows: Sequence[Example], expected: Sequence[Example], *, quiet: bool = True) -> bool:
    """Whether these fields come out of the examples, to the bit."""
    for row, fields in zip(rows, expected, strict=True):
        try:
            found = function(dict(row))
        except Exception:
            if quiet:
                return False
            raise
        for name, value in fields.items():
            one, other = np.asarray(found.get(name)), np.asarray(value)
            if one.shape != other.shape or one.dtype != other.dtype or one.tobytes() != other.tobytes():
                return False
    return True


def _type(column: np.ndarray[Any, Any]) -> str:
    """Of a field's numbers.

    Raises:
        NotShipped: it is neither numbers, bytes nor text.
    """
    if column.dtype.kind in "biuf":
        return str(column.dtype)
    kinds = {type(value) for value in column}
    forms = {(value.dtype, value.ndim) for value in column if isinstance(value, np.ndarray)}
    if kinds <= {bytes} or kinds <= {str}:
        return "bytes" if kinds <= {bytes} else "text"
    if kinds <= {np.ndarray}:
        if len(forms) > 1:
            raise NotShipped("it needs arrays that differ in type or number of axes")
        return str(column[0].dtype)
    raise NotShipped(f"it needs fields that are {', '.join(sorted(kind.__name__ for kind in kinds))}")


def _start(statement: ast.stmt) -> int:
    """The line that it begins at, decorators included."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names of the module that a statement binds, or whose value it changes: by an item, an attribute or a method."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    of_script = _is_of_a_script(statement)
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif of_script:
            continue
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield from _changed(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _changed(node.value.func)


def _changed(target: ast.expr) -> Iterator[str]:
    """The name that a chain of attributes and items begins with; a plain name is no chain."""
    chain = target
    while isinstance(chain, ast.Attribute | ast.Subscript):
        chain = chain.value
    if chain is not target and isinstance(chain, ast.Name):
        yield chain.id


def _is_of_a_script(statement: ast.stmt) -> bool:
    """Whether it runs only where the file is run as a script."""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _used(statement: ast.stmt) -> set[str]:
    """Names of the module that a statement looks up, in its functions too."""
    return set(_global_names(symtable.symtable(ast.unparse(statement), "<job>", "exec")))


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_names(inner)
