"""Random kills of workers, streamers and drivers: the same end as without (`make chaos` for more of them)."""

import random
from pathlib import Path

import pytest

from tests.support.chaos import compared

KILLS = 10


@pytest.mark.timeout(600)
def test_promise_3_and_8_killed_at_random_a_run_ends_as_undisturbed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: make chaos KILLS={KILLS} SEED={seed}")
    chaos = compared(tmp_path, KILLS, seed)
    assert len(chaos.killed) == KILLS
