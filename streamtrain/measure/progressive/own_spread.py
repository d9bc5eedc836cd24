"""The variance of one example's loss at the parameters of its minibatch, out of that minibatch alone.

A mean of many minibatches is off from the mean of the risks on the way by what each minibatch is off from its own risk,
and these add up squared, since each is new to its parameters (a martingale). What the risk itself falls from one
minibatch to the next is no part of it. So the standard error of ``Σ wᵢ xᵢ / Σ wᵢ`` is ``√(Σ wᵢ² s²) / Σ wᵢ``, with s²
the variance within the example's own minibatch. A minibatch of one example has none: s² is then half of the squared
difference from the one before (von Neumann 1941), which takes in little of the fall.

Where examples have weights, a minibatch of n examples that weigh W has the mean R and the variance s²/n, of linearized
values; of the mean over all minibatches, ``Σ W R / Σ W``, the standard error is ``√(Σ W² s²/n) / Σ W``.
"""

from __future__ import annotations

from streamtrain.samples import Joint
from streamtrain.values import Moments, Risk


def variance_of_one(minibatch: Moments, before: Moments) -> float:
    """See the module; ``before``: the minibatch before it, of no example at the first. 0 where nothing is known."""
    if minibatch.count > 1:
        return minibatch.variance
    if not before.count:
        return 0.0
    return (minibatch.mean - before.mean) ** 2 / (1 + 1 / before.count)


def joined(total: Moments, minibatch: Moments, before: Moments) -> Moments:
    """``total`` with one more minibatch, so that its standard error is that of the docstring above."""
    count = total.count + minibatch.count
    if minibatch.count == 0:
        return total
    if minibatch.joint is not None:
        return _joined_ratio(total, minibatch, before)
    mean = total.mean + (minibatch.mean - total.mean) * minibatch.count / count
    summed = total.m2 * total.count / (total.count - 1) if total.count > 1 else 0.0  # Σ s², an example each
    summed += minibatch.count * variance_of_one(minibatch, before)
    return Moments(count, mean, summed * (count - 1) / count)


def _joined_ratio(total: Moments, minibatch: Moments, before: Moments) -> Moments:
    """The same of weighted means; the sum over minibatches stands in the joint sample's first product."""
    count = total.count + minibatch.count
    known = total.as_joint
    summed = known.products[0] * total.count / (total.count - 1) if total.count > 1 else 0.0  # Σ W² s²/n
    summed += minibatch.weight**2 / minibatch.count * variance_of_one(minibatch, before)
    sums = (a + b for a, b in zip(known.sums, minibatch.as_joint.sums, strict=True))
    return Moments.of_joint(count, Joint(tuple(sums), (summed * (count - 1) / count, 0.0, 0.0)))


def joined_risk(total: Risk, minibatch: Risk, before: Risk) -> Risk:
    """The same for loss and error."""
    loss = joined(total.loss, minibatch.loss, before.loss)
    return Risk(loss, joined(total.error, minibatch.error, before.error))
