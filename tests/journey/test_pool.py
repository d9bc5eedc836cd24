"""The pool: workers that come, go, die and lag, and the bits that come of it."""

import random
from collections.abc import Iterator

import pytest

from tests.support.crew import Crew
from tests.support.steps import FULL, hashes, make_pool, start, take_part

STEPS = 40


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(4) as crew:
        yield crew


def pool_of(crew: Crew, model: str, bound: int, workers: int) -> tuple[object, int]:
    crew.all(start, [(model, FULL, worker, workers, STEPS) for worker in range(workers)])
    (handle,) = crew.all(make_pool, [(bound,)])
    return handle, bound


@pytest.mark.parametrize("seed", range(3))
def test_promise_5_the_same_bits_when_workers_join_and_leave_at_random(crew: Crew, seed: int) -> None:
    expected = hashes(crew, "shared", "cnn", FULL, 1, STEPS)
    pool, generator = pool_of(crew, "cnn", 0, 4), random.Random(seed)
    updates, joined = [], 0
    crew.start(0, take_part, *pool)
    for worker in (1, 2, 3):
        crew.start(worker, take_part, *pool, generator.randrange(1, 20))
    while not crew.answered(0):
        for worker in (1, 2, 3):
            if crew.answered(worker):
                updates += crew.result(worker)[0]
                crew.start(worker, take_part, *pool, generator.randrange(1, 20))
                joined += 1
    rest, found = crew.result(0)
    for worker in (1, 2, 3):
        updates += crew.result(worker)[0]
    assert joined and {found} == expected
    assert sorted(update.step for update in updates + rest) == list(range(STEPS))
    assert all(update.staleness == 0 for update in updates + rest)


@pytest.mark.parametrize("dies", ["holding a claim", "updating"])
def test_the_others_do_what_a_killed_worker_began(dies: str) -> None:
    with Crew(2) as crew:
        expected = hashes(crew, "shared", "mlp", FULL, 1, STEPS)
        pool = pool_of(crew, "mlp", 0, 2)
        crew.start(1, take_part, *pool, 20 if dies == "holding a claim" else None, dies)
        crew.processes[1].join(60)
        assert crew.processes[1].exitcode == -9
        assert crew.all(take_part, [pool])[0][1] == expected.pop()


def test_stale_gradients_are_at_most_so_many_updates_old(crew: Crew) -> None:
    updates = [update for found in crew.all(take_part, [pool_of(crew, "mlp", 2, 4)] * 4) for update in found[0]]
    assert sorted(update.step for update in updates) == list(range(STEPS))
    assert 0 < max(update.staleness for update in updates) <= 2


def test_a_pool_of_one_worker_is_never_stale(crew: Crew) -> None:
    expected = hashes(crew, "shared", "mlp", FULL, 1, STEPS)
    ((updates, found),) = crew.all(take_part, [pool_of(crew, "mlp", 3, 1)])
    assert {found} == expected and not any(update.staleness for update in updates)
