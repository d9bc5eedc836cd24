"""Promises 3 and 7 of a pool with backup lanes, over random interleavings, deaths and resumed runs, in one process."""

import itertools
from collections import Counter
from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.memory import Capacity, Memory, block_size, open_file, shared_block
from streamtrain.aggregate.exchange.pool import Claim, Pool
from streamtrain.aggregate.moments import write_moments
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.saved import collect_tensors, restore
from streamtrain.aggregate.vector import Layout, layout_of
from streamtrain.job import Schedule
from streamtrain.values import Moments, Update

LANES, PASS_STEPS, PASSES = 4, 5, 2
STEPS = PASS_STEPS * PASSES
IS_DEAD = "streamtrain.aggregate.exchange.pool.is_dead"
Part = tuple[int, int]


class Crowd:
    """A pool's workers, as numbers above all process numbers, each idle or with a claim."""

    def __init__(self, backup: int, pass_steps: int, memory: Memory | None = None) -> None:
        self.layout: Layout = layout_of(torch.nn.Linear(2, 1))
        block, self.handle = shared_block(block_size(self.layout, Descent(SGD()), Capacity(LANES, 3, 1, backup)))
        self.memory, self.pass_steps = (
            Memory(self.layout, Descent(SGD()), Capacity(LANES, 3, 1, backup), block),
            pass_steps,
        )
        self.updates: list[Update] = []
        self.numbers = itertools.count(2**40)
        self.dead: set[int] = set()
        self.pools: list[Pool] = []
        self.claims: list[Claim | None] = []
        for _ in range(3):
            self.come()

    def come(self) -> None:
        aggregator = Aggregator(
            self.layout, Descent(SGD()), rate_of=LearningRate(Schedule(), LANES, STEPS), worker=0, workers=1
        )
        pool = Pool(self.memory, aggregator, open_file(self.handle), self.pass_steps)
        pool._process = next(self.numbers)
        self.pools.append(pool)
        self.claims.append(None)

    def turn(self, worker: int) -> None:
        """One worker makes what is due and takes a claim, or brings the one that it has."""
        pool, claim = self.pools[worker], self.claims[worker]
        if claim is None:
            self.updates += pool.updates()
            self.claims[worker] = pool.claim(STEPS)
            return
        claim.slot.gradient.fill_(1.0)
        claim.slot.used.fill(1)
        write_moments(claim.slot, Moments(1), Moments(1))
        pool.finish(claim)
        self.claims[worker] = None

    def die(self, worker: int) -> None:
        self.dead.add(self.pools[worker]._process)
        del self.pools[worker], self.claims[worker]
        with mock.patch(IS_DEAD, self.dead.__contains__):
            self.pools[0]._free_what_the_dead_held()
        self.come()

    def resumed(self) -> "Crowd":
        """The same run in new processes, from a checkpoint; parts of the minibatch at hand were for nothing."""
        saved = collect_tensors(self.layout, self.pools[0].state)
        other = Crowd(self.memory.backup, self.pass_steps)
        other.memory.reset(self.pools[0].step)
        restore(self.layout, other.pools[0].state, saved)
        other.updates = self.updates
        return other


def parts_of(updates: list[Update], put_back: bool) -> list[Part]:
    """What the updates used, by what they say themselves: all that was offered and not late."""
    used, waiting = [], []
    for update in updates:
        offered = waiting + [(update.step, lane) for lane in range(LANES)]
        used += [part for part in offered if part not in update.late]
        assert update.loss.count == len(offered) - len(update.late)
        waiting = list(update.late) if put_back else []
    return used


@given(
    backup=st.integers(1, LANES - 1),
    put_back=st.booleans(),
    turns=st.lists(st.sampled_from([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, "die", "resume"]), max_size=120),
)
@settings(max_examples=60)
def test_no_part_is_used_twice_and_only_late_ones_are_left_out(
    backup: int, put_back: bool, turns: list[int | str]
) -> None:
    crowd = Crowd(backup, PASS_STEPS if put_back else 0)
    for turn in turns:
        if turn == "die":
            crowd.die(2)
        elif turn == "resume":
            crowd = crowd.resumed()
        else:
            crowd.turn(int(turn))
    while crowd.pools[0].step < STEPS:
        for worker in range(3):
            crowd.turn(worker)
    assert [update.step for update in crowd.updates] == list(range(STEPS))
    assert all(len(update.late) <= backup for update in crowd.updates)
    used = Counter(parts_of(crowd.updates, put_back))
    everything = Counter((step, lane) for step in range(STEPS) for lane in range(LANES))
    late = Counter(part for update in crowd.updates for part in update.late)
    if put_back:
        assert used == everything
        for update in crowd.updates:
            assert not any(part[0] // PASS_STEPS != update.step // PASS_STEPS for part in update.late)
    else:
        assert used + late == everything
