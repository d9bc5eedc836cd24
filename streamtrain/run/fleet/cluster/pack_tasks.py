"""`pack` over Ray tasks: Ray hands out the parts, and the examples go through files that all nodes must see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from streamtrain.errors import StreamtrainError, WorkerLost, one_line
from streamtrain.packing import PackOptions
from streamtrain.packing import pack as pack_with
from streamtrain.packing.packing import append as append_with
from streamtrain.packing.shuffling.phases import Progress
from streamtrain.packing.shuffling.scatter import Done
from streamtrain.shards import Manifest

LARGE = 4 << 30
"""Sources of this many bytes are worth the seconds that Ray takes to start."""


def pack(
    source: str | Path, dest: str | Path, options: PackOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """As `streamtrain.packing.packing.pack`, over ``options.tasks`` Ray tasks.

    Raises:
        WorkerLost: a task died again and again; the same command goes on where it was.
    """
    return pack_with(source, dest, options, progress, RayTasks())


def append(
    source: str | Path, dest: str | Path, options: PackOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """As `streamtrain.packing.packing.append`, over ``options.tasks`` Ray tasks.

    Raises:
        WorkerLost: a task died again and again; the same command goes on where it was.
    """
    return append_with(source, dest, options, progress, RayTasks())


class RayTasks:
    """Does parts in Ray tasks, on the cluster that RAY_ADDRESS names or on this machine."""

    def tasks(self, source_bytes: int | None) -> int:
        """One a CPU where the source is large."""
        if source_bytes is None or source_bytes < LARGE:
            return 1
        import ray

        from streamtrain.run.fleet.cluster.starting import start_ray

        start_ray()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]  # Ray has no types for it

    def __call__(self, function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int, done: Done) -> None:
        """Does the parts, so many at once; a task whose process dies is done again, up to three times.

        Raises:
            StreamtrainError, OSError: as the function raised it.
        """
        for examples in _results(function, parts, tasks):
            done(examples)


def _results(function: Callable[[Any, Done], None], parts: Sequence[Any], tasks: int) -> Iterator[int]:
    """How many examples each part was, in the order in which they are finished."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    from streamtrain.run.fleet.cluster.starting import start_ray

    start_ray()
    shared = ray.put(function)
    remote = ray.remote(max_retries=3)(_counted)
    waiting = list(reversed(parts))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < tasks:
                running.append(remote.remote(shared, waiting.pop()))
            (ready, *_), running = ray.wait(running)
            yield ray.get(ready)
    except RayTaskError as error:
        if isinstance(error.cause, StreamtrainError | OSError):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkerLost(f"pack: a task died: {one_line(error)}; the same command goes on where it was") from error
    finally:
        for task in running:
            ray.cancel(task, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=60)


def _counted(function: Callable[[Any, Done], None], part: Any) -> int:
    """Does one part; how many examples it was."""
    counts: list[int] = []
    function(part, counts.append)
    return sum(counts)
