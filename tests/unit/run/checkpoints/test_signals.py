"""SIGTERM asks once, and what takes the workers with it ends the process by itself."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from streamtrain.errors import Interrupted
from streamtrain.run.checkpoints import signals
from streamtrain.run.checkpoints.signals import stopped_by_signal


class Keeper:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.times, self.asked = 0, None  # type: int, str | None

    def ask_to_stop(self, why: str) -> None:
        self.times, self.asked = self.times + 1, why

    def settle(self) -> str:
        return "what was written is there"


@pytest.fixture
def before() -> Iterator[list[int]]:
    """What the handler from before has seen."""
    seen: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, old)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_asks_once_and_later_ones_change_nothing(before: list[int]) -> None:
    keeper = Keeper()
    with stopped_by_signal(keeper, lambda: False, print):
        terminate()
        terminate()
    terminate()
    assert keeper.times == 1 and keeper.asked == "stopped by SIGTERM" and not before


def test_without_a_signal_all_is_as_before(before: list[int]) -> None:
    keeper = Keeper()
    with stopped_by_signal(keeper, lambda: True, print):
        pass
    terminate()
    assert keeper.times == 0 and before == [signal.SIGTERM]


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("tells", [True, False])
def test_whose_workers_are_gone_too_ends_by_itself(tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, told = threading.Event(), []  # type: ignore[var-annotated]

    def end(why: str) -> None:
        told.append(why)
        if not tells:
            raise OSError("no terminal")

    def leave(code: int) -> None:
        told.append(code)
        ended.set()
        raise SystemExit

    monkeypatch.setattr(signals.os, "_exit", leave)
    with stopped_by_signal(Keeper(), lambda: True, end):
        terminate()
        assert ended.wait(60)
    why = "stopped by SIGTERM, and all workers with it; what was written is there"
    assert told == [why, Interrupted.exit_code]
