"""Backup lanes: minibatches go on without their slowest parts, which come later, or not at all, but never twice."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.job import Clip
from streamtrain.order import Order
from streamtrain.values import Update
from tests.support.crew import Crew
from tests.support.steps import (
    BATCH,
    EXAMPLES,
    LANES,
    MODELS,
    data,
    make_pool,
    start,
    take_part_with_backup,
)

ORDER = Order(EXAMPLES, LANES, BATCH)
STEPS = 2 * ORDER.steps + 3
CLIPPED = Descent(SGD(lr=0.05, momentum=0.9, weight_decay=1e-3), clip=Clip(norm=0.5))
Part = tuple[int, int]
Parameters = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2) as crew:
        yield crew


def run(
    crew: Crew, backup: int, pass_steps: int, workers: int = 2
) -> tuple[list[Update], list[tuple[int, Part]], Parameters]:
    """Two workers, the second of which lags; all updates, the parts that each used, and the parameters."""
    crew.all(start, [("mlp", CLIPPED, worker, workers, STEPS, "float64") for worker in range(workers)])
    (handle,) = crew.all(make_pool, [(0, backup)])
    found = crew.all(take_part_with_backup, [(handle, backup, pass_steps, worker == 1) for worker in range(workers)])
    updates = sorted((update for each in found for update in each[0]), key=lambda update: update.step)
    assert [update.step for update in updates] == list(range(STEPS))
    return updates, [(step, (of, lane)) for each in found for step, of, lane in each[1]], found[0][2]


def examples_in(part: Part) -> list[int]:
    step, lane = part
    found = ORDER.minibatch(ORDER.position(step)).parts[lane]
    return list(range(found.start, found.stop))


@pytest.mark.parametrize("backup", [1, 3])
def test_promise_3_what_came_late_is_used_later_in_the_pass_and_every_example_once(crew: Crew, backup: int) -> None:
    updates, brought, _ = run(crew, backup, ORDER.steps)
    late = [part for update in updates for part in update.late]
    assert late and all(len(update.late) <= backup for update in updates)
    for pass_index in range(2):
        steps = range(pass_index * ORDER.steps, (pass_index + 1) * ORDER.steps)
        used = Counter(number for step, part in brought if step in steps for number in examples_in(part))
        assert used == Counter(range(EXAMPLES))
        assert sum(update.loss.count for update in updates if update.step in steps) == EXAMPLES
        assert not updates[steps[-1]].late, "the last minibatch of a pass waits for everybody"
    assert {part for _, part in brought} >= {part for part in late if part[0] < 2 * ORDER.steps}


def test_promise_7_what_came_late_is_unused_online(crew: Crew) -> None:
    updates, brought, _ = run(crew, 1, 0)
    late = [part for update in updates for part in update.late]
    used = [part for _, part in brought]
    assert late and sorted(used + late) == [(step, lane) for step in range(STEPS) for lane in range(LANES)]
    assert all(step == of for step, (of, _) in brought)


def test_promise_4_the_gradient_is_the_mean_over_the_examples_that_came(crew: Crew) -> None:
    updates, _, parameters = run(crew, 1, ORDER.steps)
    x, labels = (torch.from_numpy(each) for each in data())
    torch.manual_seed(3)
    model = MODELS["mlp"]().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    waiting: list[Part] = []
    for update in updates:
        offered = waiting + [(update.step, lane) for lane in range(LANES)]
        rows = [number for part in offered if part not in update.late for number in examples_in(part)]
        waiting = list(update.late)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows].double()), labels[rows]).backward()
        assert update.loss.count == len(rows)
        assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)) == pytest.approx(update.gradient_norm)
        optimizer.step()
    for name, theirs in model.named_parameters():
        assert float((torch.from_numpy(parameters[name]) - theirs.detach()).norm() / theirs.detach().norm()) < 1e-9, (
            name
        )


def test_nothing_is_late_where_nobody_else_computes(crew: Crew) -> None:
    updates, _, parameters = run(crew, 3, ORDER.steps, workers=1)
    assert not any(update.late for update in updates)
    _, _, expected = run(crew, 0, 0, workers=1)
    assert all(np.array_equal(parameters[name], expected[name]) for name in expected)
