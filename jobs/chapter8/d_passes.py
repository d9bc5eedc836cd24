"""(d) In a single pass the progressive risk is the held-out risk; with more passes the gap opens (8.1.3).

    python jobs/chapter8/d_passes.py        # two minutes

And what later passes are worth: one pass over eight times the data shows how much new data would have done the same.
"""

import itertools
from pathlib import Path

import numpy as np
from common import Finding, figure, finish, job, packed

import streamtrain as st

SETTINGS = {"optimizer": st.SGD(lr=0.1, momentum=0.5), "batch_size": 32}
HELD_OUT, FEW, MANY, PASSES = 10_000, 6000, 48_000, 20


def data_of(examples: int) -> Path:
    """So many training examples, and as many held-out ones beside any number of them."""
    whole = examples + HELD_OUT
    return packed(f"{whole}", whole, validation=HELD_OUT / whole)


def one_pass_score() -> tuple[st.Result, list[float]]:
    """One pass over 6,000 examples, and its progressive minus its held-out loss, in standard errors.

    A window reaches from one measurement to the next, so it is held against the mean of the two.
    """
    online = st.train(job(data_of(FEW), mode=st.Online(window=600), **SETTINGS), name="one-pass")
    scores = []
    for begin, end in itertools.pairwise(online.evaluations):
        assert end.progressive is not None
        seen, ends = end.progressive.loss, [point.generalization.loss for point in (begin, end)]
        held_out, error = float(np.mean([each.mean for each in ends])), ends[1].standard_error  # the same examples
        scores.append((seen.mean - held_out) / np.hypot(seen.standard_error, error))
    return online, scores


def main() -> Finding:
    online, scores = one_pass_score()
    many = st.train(job(data_of(FEW), mode=st.Epochs(max_passes=PASSES, patience=PASSES), **SETTINGS))
    long = st.train(job(data_of(MANY), mode=st.Online(evaluate_every=MANY // 10), **SETTINGS), name="long-pass")
    worth = st.compare(many, long).worth
    assert worth is not None
    first, last = many.evaluations[0].gap_of_loss, many.evaluations[-1].gap_of_loss
    drawn, axes = figure(3)
    used = [p.examples_used for p in online.evaluations]
    for which, color in (("generalization", "#b2182b"), ("progressive", "#1b7837")):
        risks = [getattr(p, which).loss for p in online.evaluations]
        axes[0].errorbar(used, [r.mean for r in risks], [r.standard_error for r in risks], label=which, color=color)
    axes[0].set(xlabel="examples used in one pass", ylabel="loss")
    axes[0].legend(frameon=False)
    gaps = [p.gap_of_loss for p in many.evaluations]
    axes[1].errorbar([p.passes for p in many.evaluations], [g.value for g in gaps], [g.standard_error for g in gaps])
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set(xlabel="passes", ylabel="gap of the loss")
    passes = [each.passes for each in worth.each]
    axes[2].errorbar(passes, [each.times for each in worth.each], [each.standard_error for each in worth.each])
    axes[2].plot([1, 8], [1, 8], color="black", linewidth=0.8, linestyle=":")
    axes[2].set(xlabel="passes over 6,000 examples", ylabel="worth, times the data in one pass")
    finding = Finding(
        "8.1.3",
        "In the first pass a minibatch's gradient is that of the generalization error; later passes open the gap.",
        f"progressive − held-out loss of one pass, in standard errors: last {scores[-1]:+.1f}, mean of "
        f"{len(scores)} windows {np.mean(scores):+.1f}; gap after 1 pass "
        f"{first.value:+.3f} ± {first.standard_error:.3f}, after {many.passes} "
        f"{last.value:+.3f} ± {last.standard_error:.3f}; {worth.kept.words} (one run each)",
        abs(scores[-1]) < 2 and last.value - first.value > 2 * np.hypot(last.standard_error, first.standard_error),
    )
    finish("d_passes", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
