"""Whoever is lost takes nothing with it: the others have the whole state of the last step that all of them made."""

from collections.abc import Iterator

import pytest

from tests.support.between_hosts import go_on, train_until_lost
from tests.support.crew import Crew
from tests.support.steps import FULL, hashes, make_store, start

STEPS, LOST_IN = 12, 7


@pytest.fixture(scope="module")
def expected() -> Iterator[set[str]]:
    with Crew(1) as crew:
        yield hashes(crew, "shared", "mlp", FULL, 1, STEPS)


@pytest.mark.parametrize(("lost", "dies"), [(2, "computing"), (0, "meeting")])
def test_the_others_go_on_with_the_same_bits_when_one_of_three_is_killed_in_mid_step(
    expected: set[str], lost: int, dies: str
) -> None:
    with Crew(3) as crew:
        crew.all(start, [("mlp", FULL, worker, 3, STEPS) for worker in range(3)])
        others = [worker for worker in range(3) if worker != lost]
        crew.start(others[0], make_store, "127.0.0.1")
        address = crew.result(others[0])
        for worker in range(3):
            crew.start(worker, train_until_lost, address, LOST_IN, dies if worker == lost else None)
        steps = [crew.result(worker) for worker in others]
        assert set(steps) <= {LOST_IN, LOST_IN + 1}

        crew.start(others[1], make_store, "127.0.0.1")
        address = crew.result(others[1])
        for place, worker in enumerate(others):
            crew.start(worker, go_on, address, place, 2, min(steps) - 1)  # one has the next step, as may happen
        assert {crew.result(worker) for worker in others} == expected
