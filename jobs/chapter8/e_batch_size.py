"""(e) Small batches can have a regularizing effect: held-out error against batch size (8.1.3).

    python jobs/chapter8/e_batch_size.py        # two minutes

Same learning rate, same number of passes. That is the comparison of those who raise the batch size alone; it holds the
work fixed and not the number of updates, so "better" has two causes: noise, and more updates.
"""

import numpy as np
from common import Finding, figure, finish, job, packed

import streamtrain as st

SIZES = (8, 32, 128, 512)


def main() -> Finding:
    data = packed("4000", 4000, validation=0.5)
    results = []
    for size in SIZES:
        settings = {"mode": st.Epochs(max_passes=15, patience=15), "sgd": st.SGD(lr=0.1), "batch_size": size}
        results.append(st.train(job(data, **settings), name=f"batch-{size}"))
    held_out = [r.chosen.generalization.error for r in results]
    training = [r.chosen.empirical.error.mean for r in results]
    drawn, (axes,) = figure()
    axes.errorbar(SIZES, [m.mean for m in held_out], [m.standard_error for m in held_out], marker="o", label="held out")
    axes.plot(SIZES, training, "o--", label="training")
    axes.set(xlabel="batch size", ylabel="error of the best parameters", xscale="log")
    axes.legend(frameon=False)
    better = held_out[-1].mean - held_out[0].mean
    finding = Finding(
        "8.1.3",
        "Small batches generalize better at the same work.",
        ", ".join(f"{size}: {m.mean:.1%} ± {m.standard_error:.1%}" for size, m in zip(SIZES, held_out, strict=True)),
        better > 2 * float(np.hypot(held_out[0].standard_error, held_out[-1].standard_error)),
    )
    finish("e_batch_size", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
