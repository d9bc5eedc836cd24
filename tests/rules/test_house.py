"""The rules that keep the house as DESIGN draws it: sizes, names, imports, flags."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamtrain
from tests.support.command import streamtrain_forked as run_command

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "streamtrain"
FILES = sorted(LIBRARY.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
FUNCTIONS = [
    pytest.param(file, node, id=f"{file.relative_to(ROOT)}:{node.name}")
    for file, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=relative)
def test_files_have_at_most_400_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize(("file", "function"), FUNCTIONS)
def test_functions_have_at_most_60_lines_and_constructors_8_parameters(file: Path, function: ast.FunctionDef) -> None:
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno + 1 <= 60
    if function.name == "__init__":
        assert len(function.args.args) + len(function.args.kwonlyargs) - 1 <= 8


def test_functions_are_short_as_a_rule() -> None:
    """STYLE's goal: the 90th percentile is at most 35 lines."""
    lengths = sorted(node.end_lineno - node.lineno + 1 for _, node in (p.values for p in FUNCTIONS))
    assert lengths[len(lengths) * 9 // 10] <= 35


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(TREES[file])


def test_no_file_of_the_library_is_hidden_from_git() -> None:
    """A pattern of .gitignore without a leading slash may hide a folder of ours: it would be missing in a clone."""
    files = [str(file.relative_to(ROOT)) for file in FILES]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(files),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stdout, "1: none of them is"


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in FILES} - {LIBRARY}), ids=lambda folder: str(folder.relative_to(ROOT))
)
def test_folders_have_3_to_9_files(folder: Path) -> None:
    assert 3 <= len([*folder.glob("*.py"), *(f for f in folder.iterdir() if (f / "__init__.py").exists())]) - 1 <= 9


def test_top_level_is_what_the_user_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {Path(name).parts[0] for name in listed.splitlines()}
    fixed = {"pyproject.toml", "streamtrain", "jobs", "cluster", "tests", "README.md", "CHANGELOG.md"}
    for_tools = {"Makefile", ".ci", ".github", "LICENSE", "requirements.lock", ".gitignore", "findings"}
    assert top <= fixed | for_tools, "only what the user fixed, and what tools need"


def test_ray_and_its_remote_calls_stand_where_design_says() -> None:
    users = {relative(file) for file, tree in TREES.items() if "ray" in imported(tree)}
    places = ("streamtrain/run/fleet/actors/", "streamtrain/run/fleet/cluster/")
    fleet = {relative(file) for file in FILES if relative(file).startswith(places)}
    assert users <= fleet, "the rest of the house runs without Ray"
    users = {relative(file.parent) for file, tree in TREES.items() if "mlflow" in imported(tree)}
    assert users == {"streamtrain/track/mlflow"}
    assert {relative(f) for f, tree in TREES.items() if "fsspec" in imported(tree)} == {"streamtrain/store/remote.py"}


def test_torch_distributed_stands_in_one_file() -> None:
    found = {
        relative(file)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(alias.name.startswith("torch.distributed") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.distributed"))
    }
    assert found == {"streamtrain/aggregate/exchange/collective/group.py"}


def imported(tree: ast.Module) -> set[str]:
    """Top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_no_pickle_anywhere() -> None:
    """Promise 9: nothing read from a shard, a manifest or a checkpoint is executed."""
    ships_code = "streamtrain/prepare/jobfile.py"  # the user's own functions, to the user's own workers
    for file, tree in TREES.items():
        if relative(file) == ships_code:
            continue
        assert not {"pickle", "cloudpickle", "dill", "marshal", "shelve"} & imported(tree), relative(file)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in calls:
            assert not any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in call.keywords)
            assert ast.unparse(call.func) not in {"torch.load", "eval", "exec", "joblib.load"}, relative(file)


def test_public_names() -> None:
    assert sorted(streamtrain.__all__) == list(PUBLIC)
    assert all(getattr(streamtrain, name) is not None for name in streamtrain.__all__)


def test_pack_is_called_by_its_public_name(tmp_path: Path) -> None:
    """Also after the package of that name was imported."""
    np.savez(tmp_path / "raw.npz", x=np.arange(10))
    for name in ("a", "b"):
        assert streamtrain.pack(tmp_path / "raw.npz", tmp_path / name).examples == 10


PUBLIC = tuple(
    sorted(
        [
            "Adagrad",
            "Adam",
            "AdamW",
            "Average",
            "Balanced",
            "BatchSize",
            "Checkpoints",
            "Clip",
            "Comparison",
            "ConfigError",
            "Data",
            "DataError",
            "Epochs",
            "Evaluate",
            "Evaluation",
            "Group",
            "Interrupted",
            "Job",
            "JobError",
            "Lion",
            "ManifestError",
            "Metric",
            "Mixture",
            "Muon",
            "NonFiniteError",
            "OfMeans",
            "Online",
            "Optimizer",
            "Pack",
            "PackOptions",
            "Pad",
            "Probe",
            "RMSprop",
            "Result",
            "SGD",
            "Schedule",
            "ShardError",
            "SourceError",
            "Stale",
            "StoreError",
            "StreamtrainError",
            "Synchronous",
            "Torch",
            "Tracker",
            "Tracking",
            "TrackingError",
            "TrainingError",
            "Weighted",
            "WorkerLost",
            "compare",
            "load_job",
            "open",
            "pack",
            "probe",
            "table",
            "train",
        ]
    )
)

FLAGS = [
    "--aggregation.backup",
    "--audit-every",
    "--average.decay",
    "--average.equal",
    "--average.every",
    "--average.start",
    "--batch-size",
    "--bits",
    "--branch",
    "--channels-last",
    "--checkpoints.enabled",
    "--checkpoints.folder",
    "--checkpoints.keep",
    "--checkpoints.seconds",
    "--clip.adaptive",
    "--clip.norm",
    "--clip.value",
    "--compile",
    "--data.balance",
    "--data.by-length",
    "--data.cache",
    "--data.cache-bytes",
    "--data.decode-threads",
    "--data.extra",
    "--data.image-background",
    "--data.image-mode",
    "--data.image-size",
    "--data.inputs",
    "--data.max-bad-examples",
    "--data.streamers",
    "--data.on-bad-example",
    "--data.target",
    "--data.url",
    "--data.verify",
    "--deterministic",
    "--device",
    "--error-unit",
    "--evaluate.beside",
    "--evaluate.every",
    "--evaluate.examples",
    "--evaluate.max-fraction-of-time",
    "--evaluate.splits",
    "--evaluate.until",
    "--exchange",
    "--from",
    "--help",
    "--json",
    "--lanes",
    "--loss-over",
    "--lost-after",
    "--max-seconds",
    "--max-steps",
    "--micro-batch",
    "--mode",
    "--mode.highest",
    "--mode.max-passes",
    "--mode.min-delta",
    "--mode.patience",
    "--mode.patience-examples",
    "--mode.reshuffle",
    "--mode.stop-on",
    "--more-passes",
    "--nonfinite",
    "--on-listener-error",
    "--optimizer",
    "--optimizer.dampening",
    "--optimizer.lr",
    "--optimizer.lr-batch-size",
    "--optimizer.momentum",
    "--optimizer.nesterov",
    "--optimizer.weight-decay",
    "--placement",
    "--precision",
    "--probe-every",
    "--probe-examples",
    "--profile",
    "--resume",
    "--schedule.cycle-factor",
    "--schedule.cycle-steps",
    "--schedule.decay-steps",
    "--schedule.floor",
    "--schedule.gamma",
    "--schedule.kind",
    "--schedule.milestones",
    "--schedule.start",
    "--schedule.warmup-steps",
    "--seed",
    "--skip-limit",
    "--streamers",
    "--threads",
    "--tracking.diagnostics",
    "--tracking.enabled",
    "--tracking.experiment",
    "--tracking.folder",
    "--tracking.layer-curves",
    "--tracking.log-every",
    "--tracking.log-model",
    "--tracking.parent",
    "--tracking.register",
    "--tracking.run-name",
    "--tracking.system-seconds",
    "--tracking.uri",
    "--workers",
]


def test_flags_of_train() -> None:
    shown = command("train", str(ROOT / "jobs" / "mnist.py"), "--help")
    flags = {word.strip(",") for word in shown.split() if word.startswith("--")}
    assert {flag for flag in flags if not re.search(r"(--|\.)no-", flag)} == set(FLAGS)


@pytest.mark.parametrize(
    "name",
    [
        "pack",
        "inspect",
        "train",
        "probe",
        "evaluate",
        "predict",
        "compare",
        "submit",
        "status",
        "logs",
        "stop",
        "sync",
        "ui",
    ],
)
def test_every_command_has_help_with_examples(name: str) -> None:
    shown = command(name, "--help").lower()
    assert "example" in shown and f"streamtrain {name}" in shown
    (each,) = {line.count(f"streamtrain {name} ") for line in shown.splitlines() if f"streamtrain {name} " in line}
    assert each == 1, "an example is a line"


def test_help_imports_nothing_heavy() -> None:
    code = "import streamtrain.cli.command, sys; print(sorted({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "words", [("pack", "--help"), ("inspect", "nowhere"), ("status",), ("sync",), ("stop", "--help")]
)
def test_commands_that_do_not_compute_do_not_wait_for_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom streamtrain.cli.command import main\n"
        f"try:\n    main({words!r})\nfinally:\n    print(sorted({{'torch', 'ray', 'mlflow'}} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def command(*words: str) -> str:
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout
