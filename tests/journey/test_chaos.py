"""Random kills of workers, streamers and drivers: the same end as without (`make chaos` for more of them).

The job declares an optimizer of its own, with a vector of its own.
"""

import random
from pathlib import Path

import pytest

from tests.support.chaos import JOB, OPTIMIZERS, ROOT, compared

KILLS = 3


@pytest.mark.timeout(600)
def test_promise_3_and_8_killed_at_random_a_run_ends_as_undisturbed(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: make chaos KILLS={KILLS} SEED={seed}")
    chaos = compared(tmp_path, KILLS, seed)
    assert len(chaos.killed) == KILLS


def test_its_optimizer_is_declared_in_25_lines_and_nothing_in_the_library_names_it() -> None:
    declared = JOB[JOB.index("@dataclasses.dataclass") : JOB.index("def scaled")].strip().splitlines()
    assert declared[1].startswith("class SoftSign(st.Optimizer)") and len(declared) <= 25
    assert OPTIMIZERS[0].startswith("SoftSign(") and "optimizer={optimizer}" in JOB
    naming = [file for file in (ROOT / "streamtrain").rglob("*.py") if "softsign" in file.read_text().lower()]
    assert naming == []
