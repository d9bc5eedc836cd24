"""(e) Small batches can have a regularizing effect: held-out error against batch size (8.1.3).

    python jobs/chapter8/e_batch_size.py        # three minutes

Same learning rate for all. At the same work, which is what those see who raise the batch size alone, small batches make
more updates, and that alone lowers the error. So the verdict is on the other comparison: the held-out error where each
size first has the same training loss, whatever the work. What differs there is the way that the noise has taken. Each
size is run with five seeds; standard errors are over these, and as wide as five of them take (Student's t). The
training loss is that of a random part of all examples that were used.
"""

import numpy as np
from common import SEEDS, Finding, clear_sign, figure, finish, job, mean_and_error, mean_error, packed

import streamtrain as st

SIZES = {8: 15, 32: 30, 128: 100}
"""Batch sizes, and passes that are enough for the training loss."""
PASSES, TRAINING_LOSS = 15, 0.1


def errors_of(seed: int, size: int, passes: int) -> tuple[float, float]:
    """Held-out error of one run at the same work, and at the same training loss."""
    data = packed(f"12000-{seed}", 12_000, validation=5 / 6, seed=seed)
    mode = st.Epochs(max_passes=passes, patience=passes)
    run = job(data, mode=mode, optimizer=st.SGD(lr=0.1), batch_size=size, seed=seed)
    points = st.train(run, name=f"batch-{size}").evaluations
    same_loss = next(point for point in points if point.empirical.loss.mean <= TRAINING_LOSS)
    return mean_error([points[PASSES - 1]]), mean_error([same_loss])


def main() -> Finding:
    errors = np.array([[errors_of(seed, *each) for each in SIZES.items()] for seed in SEEDS])
    drawn, axes = figure(2)
    shown = []
    titles = (f"after {PASSES} passes each", f"where the training loss first is {TRAINING_LOSS}")
    for kind, (each, title) in enumerate(zip(axes, titles, strict=True)):
        means = [mean_and_error(errors[:, size, kind]) for size in range(len(SIZES))]
        each.errorbar(list(SIZES), [mean for mean, _ in means], [error for _, error in means], marker="o")
        each.set(xlabel="batch size", ylabel="held-out error", xscale="log", title=title)
        shown.append(", ".join(f"{size}: {mean:.2%}" for size, (mean, _) in zip(SIZES, means, strict=True)))
    differences = (errors[:, -1, 1] - errors[:, 0, 1]).tolist()
    worse, error = mean_and_error(differences)
    sign = clear_sign(differences)
    verdict = {1: "clearly worse", 0: "not clearly other", -1: "clearly better"}[sign]
    finding = Finding(
        "8.1.3",
        "Small batches can have a regularizing effect: at the same training loss they generalize better.",
        f"held-out error by batch size, mean over {len(SEEDS)} seeds, at the same work ({PASSES} passes): {shown[0]}; "
        f"where the training loss first is {TRAINING_LOSS}: {shown[1]}. There the largest is {verdict} than the "
        f"smallest ({worse:+.2%} ± {error:.2%}); at the same work, small batches also win by more updates",
        sign > 0,
    )
    finish("e_batch_size", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
