"""(e) Small batches can have a regularizing effect: held-out error against batch size (8.1.3).

    python jobs/chapter8/e_batch_size.py        # two minutes

Same learning rate for all. At the same work, which is what those see who raise the batch size alone, small batches make
more updates, and that alone lowers the error. So the verdict is on the other comparison: the held-out error where each
size first has the same training loss, whatever the work. What differs there is the way that the noise has taken.
"""

from common import Finding, change, figure, finish, job, packed

import streamtrain as st

SIZES = {8: 15, 32: 60, 128: 240}
"""Batch sizes, and passes that are enough for the training loss."""
PASSES, TRAINING_LOSS = 15, 0.1


def shown(points: list[st.Evaluation]) -> str:
    errors = [point.generalization.error for point in points]
    return ", ".join(f"{size}: {m.mean:.2%} ± {m.standard_error:.2%}" for size, m in zip(SIZES, errors, strict=True))


def main() -> Finding:
    data = packed("12000", 12_000, validation=5 / 6)
    same_work, same_loss = [], []
    for size, passes in SIZES.items():
        mode = st.Epochs(max_passes=passes, patience=passes)
        result = st.train(job(data, mode=mode, sgd=st.SGD(lr=0.1), batch_size=size), name=f"batch-{size}")
        same_work.append(result.evaluations[PASSES - 1])
        same_loss.append(next(p for p in result.evaluations if p.empirical.loss.mean <= TRAINING_LOSS))
    drawn, axes = figure(2)
    titles = (f"after {PASSES} passes each", f"where the training loss first is {TRAINING_LOSS}")
    for each, title, found in zip(axes, titles, (same_work, same_loss), strict=True):
        errors = [point.generalization.error for point in found]
        each.errorbar(list(SIZES), [m.mean for m in errors], [m.standard_error for m in errors], marker="o")
        each.set(xlabel="batch size", ylabel="held-out error", xscale="log", title=title)
    worse, error = change(same_loss[:1], same_loss[-1:])
    verdict = "clearly worse" if worse > 2 * error else "clearly better" if worse < -2 * error else "not clearly other"
    finding = Finding(
        "8.1.3",
        "Small batches can have a regularizing effect: at the same training loss they generalize better.",
        f"held-out error by batch size, at the same work ({PASSES} passes): {shown(same_work)}; where the training "
        f"loss first is {TRAINING_LOSS}: {shown(same_loss)}. There the largest is {verdict} than the "
        f"smallest ({worse:+.2%} ± {error:.2%}, paired); at the same work, small batches also win by more updates",
        worse > 2 * error,
    )
    finish("e_batch_size", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
