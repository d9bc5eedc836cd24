"""Every file name of a run stands in `streamtrain.run.folder`, and nowhere else."""

import ast
from pathlib import Path

from streamtrain.run.folder import RunFolder
from tests.rules.test_house import TREES, relative

HOMES = {"streamtrain/run/folder.py", "streamtrain/track/journal.py"}
FOLDER = RunFolder(Path("runs/a-run"))
NAMES = {
    *(each.name for each in (getattr(FOLDER, name) for name in vars(RunFolder)) if isinstance(each, Path)),
    *(FOLDER.risk_figure("loss").name, FOLDER.risk_figure("error").name, "skipped_", "comparison_"),
    *("checkpoints", "journal.jsonl", "delivered", "refused.jsonl"),
} - {"runs", "skipped", "lock", "delivered", "probes", "a-run"}


def spelled(tree: ast.Module) -> set[str]:
    """All strings of a module but its docstrings and examples of commands, and the pieces of its f-strings."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told}
    return {text for text in texts if isinstance(text, str) and " " not in text}


def test_the_list_is_not_empty() -> None:
    assert {"best.safetensors", "parameters.safetensors", "trace.json", "status.json", "result.json"} <= NAMES


def test_nobody_else_spells_a_runs_file_names() -> None:
    found = {
        (relative(file), text)
        for file, tree in TREES.items()
        if relative(file) not in HOMES
        for text in spelled(tree)
        if text.rpartition("/")[2] in NAMES
    }
    settings = {(f"streamtrain/job/{name}.py", "checkpoints") for name in ("job", "checkpoints")}
    assert found <= settings, "take it from RunFolder"
