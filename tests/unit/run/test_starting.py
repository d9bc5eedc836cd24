"""Ray started for one process: its settings, and the node that it waits for."""

import os
from collections.abc import Iterator

import pytest

from streamtrain.run.fleet.cluster import ray_private, starting

HERE, ELSEWHERE = {"NodeID": "here"}, {"NodeID": "elsewhere"}


def has_nodes(tables: Iterator[list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the cluster's state answer with these, one after another."""

    class State:
        def _initialize_global_state(self, _: object) -> None: ...

        def node_table(self) -> list[dict[str, str]]:
            return next(tables)

    monkeypatch.setattr(ray_private, "GlobalState", State)
    monkeypatch.setattr(ray_private.services, "_get_gcs_client_options", lambda address: address)


def test_ray_is_asked_for_the_node_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = iter([[], [ELSEWHERE], [ELSEWHERE, HERE], []])
    asked = []
    has_nodes(tables, monkeypatch)

    def get_node(_: str, node_id: str) -> dict[str, str]:
        asked.append(node_id)
        return HERE

    assert ray_private._node_once_there(get_node, "address", "here") == HERE
    assert asked == ["here"] and list(tables) == [[]]


def test_ray_waits_in_its_own_way_for_a_node_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    has_nodes(iter([[]]), monkeypatch)
    monkeypatch.setattr(ray_private, "NODE_SECONDS", 0.0)

    def get_node(_: str, node_id: str) -> dict[str, str]:
        raise RuntimeError(f"{node_id} did not come")

    with pytest.raises(RuntimeError, match="here did not come"):
        ray_private._node_once_there(get_node, "address", "here")


@pytest.mark.parametrize("own", ["RAY_raylet_client_num_connect_attempts", "RAY_worker_niceness"])
def test_settings_that_belong_together_are_left_to_a_user_who_has_one(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("RAY_ADDRESS", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_COLOR_PREFIX")
    for name in [*others, *(name for settings in starting.OWN for name in settings)]:
        monkeypatch.setenv(name, "")  # so that what the start sets is gone after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(own, "7")

    def init(*_: object, **__: object) -> None:
        for settings in starting.OWN:
            found = {name: os.environ.get(name) for name in settings}
            assert found == ({name: "7" if name == own else None for name in settings} if own in settings else settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(starting.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(starting.ray, "init", init)
    with pytest.raises(KeyboardInterrupt):
        starting.start_ray()
