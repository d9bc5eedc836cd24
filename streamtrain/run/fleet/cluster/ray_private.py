"""What is used of Ray beside its public interface, all of it here, since any of it may move between two versions.

`USED` says what each is for. A test looks every one up, and so names the one that a new version of Ray has moved.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import parameter, ray_constants, services
from ray.job_config import JobConfig

USED = {
    "ray.job_config.JobConfig": "for its _py_driver_sys_path: where workers look for modules of the job",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": "to listen on localhost only: there is no setting for all ports",
    "ray._private.parameter.RayParams": "for its dashboard_agent_listen_port: any free one, there is no setting for it",
    "ray._private.services.ConsolePopen": "to start Ray's processes in groups of their own",
    "ray._private.worker._global_node": "to see that the processes which this one started have ended",
    "ray._private.state.state.get_max_resources_from_cluster_config": "to know that an autoscaler may add nodes",
    "ray._private.state.available_resources_per_node": "to say where there is room; publicly there are only sums",
    "ray._raylet.AuthenticationTokenLoader.instance": "to have a changed token read, which is kept from the first time",
}


def callers_paths() -> JobConfig:
    """Has workers look for modules where this process found them: the folders of its path that Python did not bring.

    A function travels by the name of its module, where that is not the job file. Ray gives workers only the folder of
    the script and the working one; on other machines what is not there is passed over.
    """
    brought = {Path(each).resolve() for each in (sys.prefix, sys.base_prefix)}
    folders = [Path(each).resolve() for each in sys.path if each and Path(each).is_dir()]
    own = [str(folder) for folder in folders if brought.isdisjoint((folder, *folder.parents))]
    return JobConfig(_py_driver_sys_path=list(dict.fromkeys(own)))


@contextlib.contextmanager
def closed_to_others() -> Iterator[None]:
    """Ray that is started in the block listens on localhost only, and its processes are in groups of their own.

    Who ends this process's group, as `timeout` and shells do, must not end Ray before the checkpoint is written. And
    its agent takes any port: Ray's fixed one is held by every other Ray of the machine, one that was killed too, for up
    to a minute, and a start waits seconds for it in vain.
    """
    listens = ray_constants.ENABLE_RAY_CLUSTER
    start_process, parameters = services.ConsolePopen, parameter.RayParams
    ray_constants.ENABLE_RAY_CLUSTER = False  # as Ray itself does on macOS: no other machine is to join
    services.ConsolePopen = functools.partial(start_process, process_group=0)  # type: ignore[misc, assignment]
    parameter.RayParams = functools.partial(parameters, dashboard_agent_listen_port=0)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = listens
        services.ConsolePopen = start_process  # type: ignore[misc]
        parameter.RayParams = parameters  # type: ignore[misc]


def read_token_again() -> None:
    """The token in the environment has changed: Ray forgets the one that it read before."""
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def own_ray_ended() -> bool:
    """Whether this process started Ray, and one of the processes without which Ray does nothing has ended."""
    node = ray._private.worker._global_node
    started: dict[str, list[Any]] = {} if node is None else node.all_processes
    return any(each.process.poll() is not None for kind in ("gcs_server", "raylet") for each in started.get(kind, ()))


def may_grow() -> bool:
    """Whether the cluster has an autoscaler that knows kinds of nodes to add."""
    return ray._private.state.state.get_max_resources_from_cluster_config() is not None


def free_resources() -> dict[str, dict[str, float]]:
    """What every living node has and nobody uses, by the node's id and the kind of resource."""
    return dict(ray._private.state.available_resources_per_node())  # type: ignore[no-untyped-call]
