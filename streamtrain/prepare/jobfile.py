"""A job file, loaded: a Python file that binds a `Job` to the name ``job``."""

from __future__ import annotations

import copyreg
import functools
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from streamtrain.errors import JobError, complaint, one_line, users_code
from streamtrain.job import Job

if TYPE_CHECKING:
    import torch

LOADED: dict[str, ModuleType] = {}
"""Job files that this process has loaded, by the name of their module."""


def load_job(file: str | Path) -> Job:
    """The job that ``file`` declares; its functions travel to the workers with it.

    Raises:
        JobError: no such file, an error in it, or no ``job`` in it.
    """
    path = Path(file)
    if not path.is_file():
        raise JobError(complaint(str(path), expected="a job file", found="no such file", do="check the path"))
    module = _load(path)
    job = getattr(module, "job", None)
    if not isinstance(job, Job):
        found = "no such name" if job is None else type(job).__name__
        raise JobError(
            complaint(str(path), expected="a streamtrain.Job named `job`", found=found, do="declare job = st.Job(...)")
        )
    return job


def check_functions_travel(job: Job) -> None:
    """Refuses functions, and an optimizer, that workers cannot be given: what a function holds on to goes with it.

    Raises:
        JobError: one of them, by its setting.
    """
    import cloudpickle

    named: dict[str, object] = {"model": job.model, "loss": job.loss, "error": job.error, "schedule": job.schedule}
    named["objective"] = job.objective
    named |= {"data.map": job.data.map, "data.transform": job.data.transform, "optimizer": job.optimizer}
    named |= {"data.augment": job.data.augment, "data.collate": job.data.collate}
    named |= {f"metrics, {name!r}": metric for name, metric in job.metrics.items()}
    for name, function in named.items():
        try:
            cloudpickle.dumps(function)
        except Exception as error:  # whatever a user's object raises when it is pickled
            do = "make inside of the function what it holds on to (a lock, an open file, a connection)"
            expected = f"{'a function' if callable(function) else 'settings'} that can be sent to workers"
            raise JobError(complaint(name, expected=expected, found=one_line(error)[:300], do=do)) from None


def why_not_logged(model: torch.nn.Module) -> str | None:
    """Why MLflow could not save a model, in one line; ``None`` where it can.

    It takes `torch.save` with cloudpickle, or TorchScript's own way. Nothing is written anywhere.
    """
    import cloudpickle
    import torch

    nowhere: Any = _Nowhere()
    try:
        if isinstance(model, torch.jit.ScriptModule):
            model.save_to_buffer()
        else:
            by = SimpleNamespace(__name__=cloudpickle.__name__, Pickler=cloudpickle.CloudPickler)
            torch.save(model, nowhere, pickle_module=by)
    except Exception as error:  # whatever a user's object raises when it is pickled
        return one_line(error)[:300]
    return None


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def _load(path: Path) -> ModuleType:
    name = f"streamtrain_job_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent.absolute()) not in sys.path:
        sys.path.insert(0, str(path.parent.absolute()))  # so that a job may import its neighbours, as when run
    with users_code(str(path)):
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise JobError(f"{path}:{error.lineno}: {error.msg}; repair the job file") from None
    _ship_by_value(module)
    return module


def _ship_by_value(module: ModuleType) -> None:
    """Makes logged models carry the module's code: nobody can import a file by this name. Ray has a pickler of its own,
    which gets `LOADED` when there are actors."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    copyreg.pickle(functools._lru_cache_wrapper, _reduce_cached)
    LOADED[module.__name__] = module


def ship_code(pickler: Any) -> None:
    """Makes a cloudpickle module carry job files by their code, which other processes cannot import.

    Functions with a cache too, and a script's and a notebook's. Plain pickle is left as it is, which names what
    `__main__` has.
    """
    for module in LOADED.values():
        pickler.register_pickle_by_value(module)
    pickler.CloudPickler.dispatch_table[functools._lru_cache_wrapper] = _reduce_with_code


def _reduce_with_code(function: Any) -> str | tuple[Callable[..., Any], tuple[Any, ...]]:
    if function.__module__ == "__main__":
        return _cached, (function.__wrapped__, function.cache_parameters())
    return _reduce_cached(function)


def _reduce_cached(function: Any) -> str | tuple[Callable[..., Any], tuple[Any, ...]]:
    """How a function that keeps what it gave (`functools.cache`) is pickled: it names itself, which cloudpickle takes
    for code that can be imported. One of a job file travels with its code, and an empty cache."""
    if function.__module__ in LOADED:
        return _cached, (function.__wrapped__, function.cache_parameters())
    return str(function.__qualname__)


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)
