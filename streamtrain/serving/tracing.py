"""One call of `torch.export`, and what of its graph is asked: which inputs count, and whose operators it has."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from streamtrain.errors import JobError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OWN_OPERATORS = ("aten", "prims", "prim", "higher_order", "_operator", "math", "builtins", "torch")
"""Where torch's own operators stand, and Python's."""


def trace(module: torch.nn.Module, examples: tuple[torch.Tensor, ...], *, any_size: bool) -> ExportedProgram:
    """For any number of examples; with ``any_size`` for other axes of any length too, where the model allows it."""
    dim = torch.export.Dim
    shapes = tuple(
        {axis: dim.DYNAMIC if axis == 0 else dim.AUTO if any_size else dim.STATIC for axis in range(tensor.dim())}
        for tensor in examples
    )
    module.eval()
    with _silent():
        return _traced_program(module, examples, shapes)


def _traced_program(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], shapes: tuple[dict[int, Any], ...]
) -> ExportedProgram:
    try:
        return torch.export.export(module, examples, dynamic_shapes=(shapes,), strict=False)
    except Exception:
        # which reads Python itself: for it `len(x)` is no number, but it knows fewer kinds of code
        with contextlib.suppress(Exception):
            return torch.export.export(module, examples, dynamic_shapes=(shapes,), strict=True)
        raise


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What torch.export prints and logs of code that it cannot take, pages of it, stays away from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(_OthersOnly(sys.stderr)):
            yield
    finally:
        logging.disable(before)


class _OthersOnly(io.TextIOBase):
    """A stream as other threads see it; what the one that made this writes is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._silent = threading.get_ident()

    def write(self, text: str, /) -> int:
        return len(text) if threading.get_ident() == self._silent else int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()


def used_inputs(exported: ExportedProgram, *, one_size: bool) -> list[bool]:
    """Which of its inputs an output depends on.

    Args:
        one_size: all of them have the same number of examples, so that it does not matter whose is asked.
    """
    reached: set[Any] = set()
    waiting = [node for node in exported.graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += [] if one_size and _is_batch_size(node) else node.all_input_nodes
    names = {node.name for node in reached}
    return [name in names for name in exported.graph_signature.user_inputs]


def _is_batch_size(node: Any) -> bool:
    """Whether it asks how many examples there are."""
    return node.target is torch.ops.aten.sym_size.int and node.args[1] == 0


def packages_of(exported: ExportedProgram) -> tuple[str, ...]:
    """Whose operators the graph calls, beside torch's own: they have to be imported before it is read."""
    modules = [module for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for module in modules for node in module.graph.nodes if node.op == "call_function"]
    spaces = {str(getattr(target, "namespace", "") or target.__module__).partition(".")[0] for target in targets}
    return tuple(sorted(spaces - set(OWN_OPERATORS)))


def first_line(error: BaseException) -> str:
    """Of torch's errors, which go on for pages; of one in the user's code, without our words around it."""
    if isinstance(error, JobError) and error.__cause__ is not None:
        error = error.__cause__
    text = (str(error).strip().splitlines() or [""])[0]
    if text.startswith("Constraints violated"):
        text = "its code makes a number of how many examples there are, or goes another way by it"
    return f"{type(error).__name__}: {text}"[:300]
