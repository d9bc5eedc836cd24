"""`make demo` as the README has it, in a clean copy of what git tracks: what it prints, and what MLflow then holds."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The copy's folder, and what `make demo` printed; the environment is this one."""
    folder = tmp_path_factory.mktemp("clone") / "streamtrain"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder, make(folder, "demo")


def make(folder: Path, *words: str) -> str:
    # the tests themselves run under `make test`, whose flags are not this one's
    without_outer_make = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", *words, f"VENV={Path(sys.prefix)}", "-o", f"{Path(sys.prefix)}/ready"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**without_outer_make, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def metrics_of(folder: Path, name: str) -> dict[str, float]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("streamtrain")
    assert experiment is not None
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == name]
    assert run.info.status == "FINISHED" and len(run.inputs.dataset_inputs) == 3 and run.outputs.model_outputs
    return dict(run.data.metrics)


@pytest.mark.timeout(600)
def test_demo_prints_the_table_and_where_to_look(demo: tuple[Path, str]) -> None:
    _, printed = demo
    assert "70,000 examples (train 56,000, validation 7,000, test 7,000)" in printed
    assert re.search(r"examples used +56,000 +[\d,]{7,}\n", printed)
    for row in (
        "passes",
        "loss, training",
        "loss, held out",
        "loss, gap",
        "error, training",
        "error, gap",
        "examples/s",
        "measuring",
    ):
        assert re.search(rf"^{row} +\S+.* \S+", printed, re.MULTILINE), row
    assert printed.rstrip().endswith("Open MLflow with `make ui`, then http://localhost:5000")


def test_online_progressive_loss_estimates_the_held_out_loss(demo: tuple[Path, str]) -> None:
    online = metrics_of(demo[0], "mnist-online")
    difference = online["progressive/loss"] - online["generalization_risk/loss"]
    error = (
        online["progressive/loss_standard_error"] ** 2 + online["generalization_risk/loss_standard_error"] ** 2
    ) ** 0.5
    assert abs(difference) <= 3 * error


def test_the_loaders_health_is_in_mlflow(demo: tuple[Path, str]) -> None:
    found = metrics_of(demo[0], "mnist-online")
    names = ("waiting_share", "bytes_per_second", "cache_hits", "cache_misses", "retries", "skipped")
    assert {f"loader/{name}" for name in names} <= found.keys()
    assert 0 < found["loader/waiting_share"] < 1 and found["loader/bytes_per_second"] > 0


def test_many_passes_open_a_gap_that_one_pass_does_not(demo: tuple[Path, str]) -> None:
    online, epochs = (metrics_of(demo[0], f"mnist-{mode}") for mode in ("online", "epochs"))
    assert epochs["empirical_risk/error"] < epochs["generalization_risk/error"]
    assert epochs["Gap/error"] > online["Gap/error"]
    assert epochs["Gap/loss"] - 2 * epochs["Gap/loss_standard_error"] > online["Gap/loss"]
    assert epochs["stop/minibatch_gradient_norm"] > 0


def test_a_second_demo_reuses_the_data(demo: tuple[Path, str]) -> None:
    before = (demo[0] / "data" / "mnist" / "manifest.json").stat().st_mtime_ns
    assert "Nothing to be done" in make(demo[0], "data")
    assert (demo[0] / "data" / "mnist" / "manifest.json").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def ui(demo: tuple[Path, str]) -> Iterator[str]:
    """`streamtrain ui` on the demo's store: its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamtrain", "ui", "--port", str(port)],
        cwd=demo[0],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
    )
    deadline = time.monotonic() + 280
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            break
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 9)
    process.wait()


def test_the_ui_is_for_this_machine_only(ui: str) -> None:
    port = int(ui.rpartition(":")[2])
    listening = [each.laddr.ip for each in psutil.net_connections() if each.laddr and each.laddr.port == port]
    assert listening and set(listening) == {"127.0.0.1"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; .ci/run installs one where it can")
@pytest.mark.timeout(600)
def test_mlflows_page_shows_the_gap_and_the_figure(demo: tuple[Path, str], ui: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{demo[0] / 'mlflow.db'}")
    (run,) = client.search_runs(["1"], "attributes.run_name = 'mnist-epochs'")
    page = f"{ui}/#/experiments/1/runs/{run.info.run_id}"
    shown = dumped(page, tmp_path)
    for name in ("Gap/loss", "Gap/error", "Gap/error_standard_error", "generalization_risk/error"):
        assert name in shown, name
    assert str(run.data.metrics["Gap/loss"])[:8] in shown  # cut, not rounded: the page may show more digits
    artifact = dumped(f"{page}/artifacts/figures/risk_error.png", tmp_path)
    assert "figures/risk_error.png" in artifact and re.search(r"<img[^>]+src=\"(blob|data|http)", artifact)


def dumped(page: str, folder: Path) -> str:
    """The page's elements once it has drawn itself."""
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *quiet, "--disable-component-update", "--disable-sync"]
    done = subprocess.run(
        [*command, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=30000", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout
