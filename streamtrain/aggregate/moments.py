"""Moments of losses and errors: left in a lane's slot, and added up over the lanes; on the host or on a device.

The formulas are those of `streamtrain.samples`. A slot has `NUMBERS` for the losses, and as many for the errors: of a
plain mean count, mean and sum of squared deviations, the others 0; of a ratio the count, its `Joint`, and 1. On a
device they are a tensor, float64, and both are summed, since nobody may look which of them it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.state import DeviceSlot, Slot
from streamtrain.errors import JobError, complaint
from streamtrain.job import Value, Weighted
from streamtrain.samples import Joint, Moments, merged_moments

KNOWN_TO_NUMPY = (torch.float32, torch.float64)
Values = tuple[Value, Value]
"""Loss and error of each example, shape (examples,)."""
Sample = tuple[float, float, float]
"""Count, mean and sum of squared deviations."""
NUMBERS = 7
IS_RATIO = 6
"""Of them: whether the others are a ratio's."""
LOSS, ERROR = slice(0, NUMBERS), slice(NUMBERS, 2 * NUMBERS)
LOOK = "look at the weights of the st.Weighted that the loss, the error or a metric returns"


class NoWeight(JobError):
    """All weights of a minibatch are 0, so that it has no mean.

    Args:
        step: of the minibatch.
        where: its first example, where it is known.
    """

    def __init__(self, step: int, where: str = "") -> None:
        self.step = step
        do = "give at least one example of every minibatch a weight, or raise batch_size"
        first = f", from {where} on" if where else ""
        expected = "weights above 0 in a minibatch"
        super().__init__(complaint(f"step {step}, weights", expected=expected, found=f"only 0{first}", do=do))

    def __reduce__(self) -> tuple[type[JobError], tuple[str]]:
        return JobError, (str(self),)


class WrongWeight(JobError):
    """A weight that is negative or no number.

    Args:
        index: of the example, among those that were given.
        weight: its.
        lane: whose examples they were; -1 of none.
        step: of the minibatch; -1 where it is not known, or there is none.
        where: the example's name, where it is known.
    """

    def __init__(self, index: int, weight: float, lane: int = -1, step: int = -1, where: str = "") -> None:
        self.index = index
        self.weight = weight
        self.lane = lane
        self.step = step
        what = "weights" if step < 0 else f"step {step}, weights"
        found = f"{weight:g} of {where or f'example {index} of those given'}"
        super().__init__(complaint(what, expected="numbers from 0 on", found=found, do=LOOK))

    def of_lane(self, lane: int, step: int = -1) -> WrongWeight:
        """The same error, saying of which lane and step."""
        return WrongWeight(self.index, self.weight, lane, step)

    def __reduce__(self) -> tuple[type[JobError], tuple[str]]:
        return JobError, (str(self),)


@contextlib.contextmanager
def counted_from(start: int) -> Iterator[None]:
    """A wrong weight that is found in the block is one of examples of which so many come before."""
    try:
        yield
    except WrongWeight as wrong:
        raise WrongWeight(start + wrong.index, wrong.weight) from None


def take_moments(values: Value) -> Moments:
    """Of each example's loss or error; waits for the device where there is one.

    Raises:
        WrongWeight: a weight is negative or no number.
    """
    if isinstance(values, Weighted):
        return Moments.of_ratio(*_pair(values))
    values = values.detach().cpu()
    return Moments.of((values if values.dtype in KNOWN_TO_NUMPY else values.double()).numpy())


def take_joint(several: Sequence[Value]) -> Moments:
    """Of several measures of the same examples, all together.

    Raises:
        WrongWeight: a weight is negative or no number.
    """
    columns = np.concatenate([_pair(values) for values in several])
    return Moments.of_joint(columns.shape[1], Joint.of(columns))


def _pair(values: Value) -> NDArray[np.float64]:
    """Sums and weights, shape (2, examples)."""
    if not isinstance(values, Weighted):
        sums = values.detach().cpu().double()
        return torch.stack([sums, torch.ones_like(sums)]).numpy()
    sums, weights = (each.detach().cpu().double() for each in (values.sums, values.weights))
    wrong = ~((weights >= 0) & torch.isfinite(weights))
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise WrongWeight(index, float(weights[index]))
    return torch.stack([sums, weights]).numpy()


def leave_moments(slot: Slot | DeviceSlot, pieces: Sequence[Values]) -> None:
    """Leaves the moments of a lane's losses and errors in its slot; on a device without waiting for it.

    Args:
        pieces: of the lane's examples; none where it has none, and the slot says so already.

    Raises:
        WrongWeight: counted over all pieces; on a device the weight becomes NaN, which `settle` finds.
    """
    if not pieces:
        return
    if isinstance(slot, DeviceSlot):
        both = ([take_device_moments(values) for values in each] for each in zip(*pieces, strict=True))
        slot.moments.copy_(torch.cat([_merged_on_device(torch.stack(each)) for each in both]))
        return
    loss, error = Moments(), Moments()
    for losses, errors in pieces:
        try:
            loss += take_moments(losses)
            error += take_moments(errors)
        except WrongWeight as wrong:
            before = loss.count if loss.count == error.count else error.count  # the piece's errors, its losses are in
            raise WrongWeight(before + wrong.index, wrong.weight) from None
    write_moments(slot, loss, error)


def write_moments(slot: Slot, loss: Moments, error: Moments) -> None:
    """Leaves a lane's moments of its losses and of its errors in its slot."""
    slot.moments[LOSS] = _numbers(loss)
    slot.moments[ERROR] = _numbers(error)


def add_moments(slots: Sequence[Slot]) -> tuple[Moments, Moments]:
    """Moments of the minibatch's losses and of its errors, added in lane order."""
    loss: Sample | Moments = (0.0, 0.0, 0.0)  # no `Moments` of plain means before the last lane: they cost more
    error: Sample | Moments = (0.0, 0.0, 0.0)
    for slot in slots:
        numbers = slot.moments.tolist()
        loss = _with(loss, numbers[LOSS])
        error = _with(error, numbers[ERROR])
    return _moments(loss), _moments(error)


def add_weights(slots: Sequence[Slot]) -> float:
    """What a minibatch's losses weigh, by which the sum of its gradients is divided; 1 where that is 0.

    The only place that says so for the host: the number of examples, or the sum of their weights, in lane order.
    """
    weights = 0.0
    for slot in slots:
        weights += float(slot.moments[2] if slot.moments[IS_RATIO] else slot.moments[0])
    return weights or 1.0


def lane_weights(slots: Sequence[Slot | DeviceSlot]) -> list[tuple[float, float]]:
    """What every lane's losses weigh: in examples of average weight, and as it is; both how many, without weights."""
    rows = [slot.moments[LOSS].tolist() for slot in slots]
    if not any(row[IS_RATIO] for row in rows):
        return [(int(row[0]), int(row[0])) for row in rows]
    average = math.fsum(row[2] for row in rows) / math.fsum(row[0] for row in rows)
    return [(row[2] / average if average else 0.0, row[2]) for row in rows]


def check_weights(step: int, totals: Sequence[Moments]) -> None:
    """Refuses a minibatch with examples whose weights are all 0, or, on a device, one of them no weight.

    Raises:
        NoWeight, JobError: it is one.
    """
    for weight in (each.weight for each in totals if each.count and each.joint is not None):
        if math.isnan(weight):
            found, do = "one that is negative or not finite", LOOK
            raise JobError(complaint(f"step {step}, weights", expected="numbers from 0 on", found=found, do=do))
        if weight == 0:
            raise NoWeight(step)


def moments_of(numbers: Sequence[float]) -> Moments:
    """What a slot's numbers are of."""
    count = int(numbers[0])
    if not numbers[IS_RATIO]:
        return Moments(count, numbers[1], numbers[2])
    return Moments.of_joint(count, Joint(tuple(numbers[1:3]), tuple(numbers[3:IS_RATIO])))


def add_device_moments(slots: Sequence[DeviceSlot]) -> torch.Tensor:
    """The same on a device: those of the losses, then those of the errors, shape (2 `NUMBERS`,)."""
    rows = torch.stack([slot.moments for slot in slots])
    return torch.cat([_merged_on_device(rows[:, part]) for part in (LOSS, ERROR)])


def device_loss(totals: torch.Tensor) -> torch.Tensor:
    """The mean loss, of what `add_device_moments` gives."""
    return torch.where(totals[IS_RATIO] > 0, totals[1] / totals[2], totals[1])


def device_weights(totals: torch.Tensor) -> torch.Tensor:
    """As `add_weights`, of what `add_device_moments` gives."""
    weights = torch.where(totals[IS_RATIO] > 0, totals[2], totals[0])
    return torch.where(weights == 0, 1.0, weights)


def take_device_moments(values: Value) -> torch.Tensor:
    """Of each example's loss or error, on their device; shape (`NUMBERS`,)."""
    if not isinstance(values, Weighted):
        data = values.detach().double().flatten()
        mean = data.mean()
        found = [torch.full_like(mean, data.numel()), mean, (data - mean).square().sum()]
        return torch.cat([torch.stack(found), mean.new_zeros(NUMBERS - 3)])
    sums, weights = (each.detach().double() for each in (values.sums, values.weights))
    weights = torch.where((weights >= 0) & torch.isfinite(weights), weights, torch.nan)
    away = [each - each.mean() for each in (sums, weights)]
    products = [(away[i] * away[j]).sum() for i, j in ((0, 0), (0, 1), (1, 1))]
    count = torch.full_like(products[0], len(sums))
    return torch.stack([count, sums.sum(), weights.sum(), *products, torch.ones_like(count)])


def _numbers(moments: Moments) -> tuple[float, ...]:
    joint = moments.joint
    if joint is None:
        return (moments.count, moments.mean, moments.m2, 0.0, 0.0, 0.0, 0.0)
    return (moments.count, *joint.sums, *joint.products, 1.0)


def _with(whole: Sample | Moments, numbers: Sequence[float]) -> Sample | Moments:
    """With one lane's numbers more."""
    if isinstance(whole, tuple) and not numbers[IS_RATIO]:
        return _merged(whole, (numbers[0], numbers[1], numbers[2]))
    return _moments(whole) + moments_of(numbers)


def _moments(sample: Sample | Moments) -> Moments:
    return sample if isinstance(sample, Moments) else Moments(int(sample[0]), *sample[1:])


def _merged(one: Sample, other: Sample) -> Sample:
    """As `Moments` are added, to the bit."""
    if not (one[0] and other[0]):
        return other if not one[0] else one
    count = one[0] + other[0]
    return (count, *merged_moments(one, other, count))


def _merged_on_device(samples: torch.Tensor) -> torch.Tensor:
    """Of rows of `NUMBERS`, one a sample: plain means in order, ratios all at once; whichever it is."""
    plain = samples[0, :3]
    for sample in samples[1:, :3]:
        count = plain[0] + sample[0]
        plain = torch.stack([count, *merged_moments(plain, sample, count.clamp(min=1))])
    counts = samples[:, 0]
    sums = samples[:, 1:3].sum(0)
    away = samples[:, 1:3] / counts.clamp(min=1)[:, None] - sums / plain[0].clamp(min=1)
    between = [(counts * away[:, i] * away[:, j]).sum() for i, j in ((0, 0), (0, 1), (1, 1))]
    products = samples[:, 3:IS_RATIO].sum(0) + torch.stack(between)
    is_ratio = samples[:, IS_RATIO].amax()
    ratio = torch.cat([plain[:1], sums, products, is_ratio[None]])
    return torch.where(is_ratio > 0, ratio, torch.cat([plain, torch.zeros_like(ratio[3:])]))
