"""Risk: the mean loss and the mean error on a set of examples, all at the same parameters.

On training examples it is the empirical risk, ``(1/m) Σ L(f(x⁽ⁱ⁾; θ), y⁽ⁱ⁾)`` (Deep Learning, 8.3); on
unseen ones it estimates the generalization risk ``E L(f(x; θ), y)`` (8.2). Standard error: ``s/√n`` (5.46).
"""

from __future__ import annotations

from collections.abc import Iterable

from streamtrain.values import Moments, Risk


def pooled(risks: Iterable[Risk]) -> Risk:
    """The risk on the union of disjoint sets, merged in the order given, so with the same bits for any workers."""
    loss, error = Moments(), Moments()
    metrics: dict[str, Moments] = {}
    for risk in risks:
        loss, error = loss + risk.loss, error + risk.error
        for name, moments in risk.metrics.items():
            metrics[name] = metrics.get(name, Moments()) + moments
    return Risk(loss, error, metrics)
