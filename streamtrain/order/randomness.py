"""Seeds by purpose: a function of the job's seed and of where the run is, never of who computes."""

from __future__ import annotations

MASK = (1 << 64) - 1
OF_EXAMPLES = MASK
"""In a step's place, which never is so large: examples' seeds are no lane's."""


def lane_seed(seed: int, step: int, lane: int) -> int:
    """Seed of the random numbers (dropout, `augment_batch`) that ``lane`` draws in global ``step``; below 2⁶³."""
    mixed = 0
    for word in (seed, step, lane):
        mixed = _splitmix64((mixed ^ word) & MASK)
    return mixed >> 1


def example_seed(seed: int, pass_index: int, number: int) -> int:
    """Seed of the random numbers that touch the example with this stored number in this pass; below 2⁶³."""
    return lane_seed(lane_seed(seed, OF_EXAMPLES, 0), pass_index, number)


def split_seed(seed: int, parts: int) -> list[int]:
    """So many seeds out of one, for generators that must not give the same numbers; below 2⁶³."""
    return [lane_seed(seed, part, parts) for part in range(parts)]


def _splitmix64(state: int) -> int:
    """Steele, Lea & Flood 2014, *Fast splittable pseudorandom number generators*: one output of SplitMix64."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)
