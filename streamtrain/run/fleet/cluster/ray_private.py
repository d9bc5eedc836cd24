"""What is used of Ray beside its public interface, all of it here, since any of it may move between two versions.

`USED` says what each is for. A test looks every one up, and so names the one that a new version of Ray has moved.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray._private import parameter, ray_constants, services
from ray._private.state import GlobalState
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.job_config import JobConfig

USED = {
    "ray.job_config.JobConfig": "for its _py_driver_sys_path: where workers look for modules of the job",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": "to listen on localhost only: there is no setting for all ports",
    "ray._private.parameter.RayParams": "for its dashboard_agent_listen_port: any free one, there is no setting for it",
    "ray._private.services.ConsolePopen": "to start Ray's processes in groups of their own",
    "ray._private.services.start_api_server": "to leave out what would only report usage",
    "ray._private.ray_constants.DASHBOARD_ADDRESS": "to say in its place where no dashboard is",
    "ray._private.ray_constants.KV_NAMESPACE_DASHBOARD": "to say in its place where no dashboard is",
    "ray._raylet.GcsClient": "to say in its place where no dashboard is",
    "ray._private.services.get_node": "to wait for the node in short steps",
    "ray._private.services._get_gcs_client_options": "to look whether the node is there",
    "ray._private.state.GlobalState": "to look whether the node is there",
    "ray._private.worker._global_node": "to see that the processes which this one started have ended",
    "ray._private.state.state.get_max_resources_from_cluster_config": "to know that an autoscaler may add nodes",
    "ray._private.state.available_resources_per_node": "to say where there is room; publicly there are only sums",
    "ray._raylet.AuthenticationTokenLoader.instance": "to have a changed token read, which is kept from the first time",
}

NODE_SECONDS, LOOKS_SECONDS = 5.0, 0.02
"""So long the node that is started is looked for in short steps, and between two looks."""


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
def for_one_process() -> Iterator[None]:
    """Ray that is started in the block is this process's alone, and starts only what a run on one machine needs.

    It listens on localhost only. Its processes are in groups of their own: who ends this process's group, as `timeout`
    and shells do, must not end Ray before the checkpoint is written. Its agent takes any port: Ray's fixed one is held
    by every other Ray of the machine, one that was killed too, for up to a minute, and a start waits seconds for it in
    vain. A process is left out that would only report usage, which `ray.init` turns off: a start waited for it more
    than a second.
    """
    parameters = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
    with contextlib.ExitStack() as stack:
        for module, name, value in (
            (ray_constants, "ENABLE_RAY_CLUSTER", False),  # as Ray itself does on macOS: no other machine is to join
            (services, "ConsolePopen", functools.partial(services.ConsolePopen, process_group=0)),
            (parameter, "RayParams", parameters),
            (services, "start_api_server", _no_api_server),
            (services, "get_node", functools.partial(_node_once_there, services.get_node)),
        ):
            stack.enter_context(_replaced(module, name, value))
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _no_api_server(*given: Any, **_: object) -> tuple[None, None]:
    """In place of Ray's: its address and its process, as where none could be started and nobody asked for a dashboard.

    A node's agent asks each second where the dashboard is until it is told: where nobody listens.
    """
    gcs_address, cluster_id = given[3:5]
    client = GcsClient(address=gcs_address, cluster_id=cluster_id)
    key, space = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    client.internal_kv_put(key, b"127.0.0.1:0", True, space)
    return None, None


def _node_once_there(get_node: Callable[[str, str], dict[str, Any]], gcs_address: str, node_id: str) -> dict[str, Any]:
    """What Ray knows of the node that it starts: looked for in short steps first, where Ray sleeps whole seconds."""
    state: Any = GlobalState()  # type: ignore[no-untyped-call]
    state._initialize_global_state(services._get_gcs_client_options(gcs_address))  # type: ignore[no-untyped-call]
    until = time.monotonic() + NODE_SECONDS
    while all(node["NodeID"] != node_id for node in state.node_table()) and time.monotonic() < until:
        time.sleep(LOOKS_SECONDS)
    return get_node(gcs_address, node_id)


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
