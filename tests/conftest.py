"""What every test needs: a cache folder of its own, so that no test sees what the user or another run left.

And what many would make again: an MLflow database, whose tables take seconds to make.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# how long an example of a property takes depends on what else the machine does
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

with pytest.MonkeyPatch.context() as one_thread:
    # several files run at once, and threads that wait for each other on too few cores took most of the time; what
    # tests start has as many threads as a user's
    one_thread.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    import torch  # noqa: F401 - its library of threads reads the variable now


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_worker_niceness", "0")  # as where we start Ray: else its workers yield to the other tests
        yield


@pytest.fixture(autouse=True)
def numbers_as_usual() -> Iterator[None]:
    """A test that runs a worker in its own process leaves it flushing subnormal numbers, which others count on."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="module", autouse=True)
def no_mlflow_from_another_file() -> Iterator[None]:
    """MLflow's `set_tracking_uri` sets the variable too: what the next file's tests start would log there."""
    found = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    assert os.environ.get("MLFLOW_TRACKING_URI") == found, "set it with monkeypatch"


@pytest.fixture(autouse=True)
def figures_only_where_they_are_looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else files without a drawing: the six of a run take longer to draw than most tests take to train."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("streamtrain.track.figures.save", lambda _, file: file.write_bytes(b"not drawn"))
        monkeypatch.setattr("streamtrain.track.figures._svg", lambda _: "")


SHARED = {"ray": False}
"""Whether the Ray of this process is the one that files of tests share."""


@pytest.fixture(scope="module", autouse=True)
def no_ray_from_another_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray that `st.train` has started stays until its process ends; the next file of tests may start its own.

    The one that journeys share ends with them: idle it takes a twentieth of a core.
    """
    if SHARED["ray"] and "journey" not in request.path.parts:
        sys.modules["ray"].shutdown()
        SHARED["ray"] = False
    yield
    if "ray" in sys.modules and not SHARED["ray"]:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module")
def local_ray() -> None:
    """Ray with room for 8 workers on this host. It stays for the next files: a start takes as long as many a test."""
    import ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR")
        SHARED["ray"] = True


@pytest.fixture(scope="module")
def without_shared_ray() -> None:
    """For files whose Ray has settings of its own."""
    if SHARED["ray"]:
        sys.modules["ray"].shutdown()
        SHARED["ray"] = False


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mlflow

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """Of a database of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
