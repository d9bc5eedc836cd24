"""(d) In a single pass the progressive risk is the held-out risk; with more passes the gap opens (8.1.3).

python jobs/chapter8/d_passes.py        # a minute
"""

import numpy as np
from common import Finding, figure, finish, job, packed

import streamtrain as st


def main() -> Finding:
    data = packed("8000", 8000)
    settings = {"optimizer": st.SGD(lr=0.1, momentum=0.5), "batch_size": 32}
    online = st.train(job(data, mode=st.Online(window=600), **settings), name="one-pass")
    many = st.train(job(data, mode=st.Epochs(max_passes=20, patience=20), **settings), name="many-passes")
    scores = []
    for point in online.evaluations[1:]:  # the first window is one of steep change: its mean lies far back
        assert point.progressive is not None
        before, held_out = point.progressive.loss, point.generalization.loss
        scores.append((before.mean - held_out.mean) / np.hypot(before.standard_error, held_out.standard_error))
    first, last = many.evaluations[0].gap_of_loss, many.evaluations[-1].gap_of_loss
    drawn, axes = figure(2)
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
    finding = Finding(
        "8.1.3",
        "In the first pass a minibatch's gradient is that of the generalization error; later passes open the gap.",
        f"progressive − held-out loss of one pass, in standard errors: last {scores[-1]:+.1f}, mean of "
        f"{len(scores)} windows {np.mean(scores):+.1f} (each window lies before its measurement); gap after 1 pass "
        f"{first.value:+.3f} ± {first.standard_error:.3f}, after {many.passes} "
        f"{last.value:+.3f} ± {last.standard_error:.3f}",
        abs(scores[-1]) < 2 and last.value - first.value > 2 * np.hypot(last.standard_error, first.standard_error),
    )
    finish("d_passes", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
