"""(i) The training 0-1 error is zero, and the validation error still falls under the log-likelihood (8.1.2).

python jobs/chapter8/i_surrogate_loss.py        # a minute
"""

from common import Finding, change, figure, finish, job, packed

import streamtrain as st


def main() -> Finding:
    data = packed("31000", 31_000, validation=30 / 31)
    settings = {"mode": st.Epochs(max_passes=60, patience=60), "sgd": st.SGD(lr=0.1), "batch_size": 20}
    result = st.train(job(data, **settings), name="surrogate")
    points = result.evaluations
    training = [p.empirical.error.mean for p in points]
    held_out = [p.generalization.error.mean for p in points]
    zero = next((index for index, error in enumerate(training) if error == 0), None)
    drawn, axes = figure(2)
    axes[0].plot([p.passes for p in points], training, label="training")
    axes[0].plot([p.passes for p in points], held_out, label="held out")
    axes[0].set(xlabel="passes", ylabel="0-1 error")
    axes[1].plot([p.passes for p in points], [p.generalization.metrics["soft_error"].mean for p in points])
    axes[1].set(xlabel="passes", ylabel="held-out soft error")
    for each in axes:
        if zero is not None:
            each.axvline(points[zero].passes, color="black", linewidth=0.8, linestyle=":")
    axes[0].legend(frameon=False)
    if zero is None:
        found, reached = f"the training error never was zero: {min(training):.2%} at best", False
    else:
        at, later = points[zero].generalization.error, points[-10:]
        risen, error = change([points[zero]], later)
        found = (
            f"training error zero from pass {points[zero].passes:.0f}; held-out error then {at.mean:.2%} ± "
            f"{at.standard_error:.2%}; over the last ten passes it lies {risen:+.2%} ± {error:.2%} (paired) from there"
        )
        reached = risen < -2 * error
    finding = Finding(
        "8.1.2",
        "The surrogate loss goes on where the 0-1 loss gives nothing more: validation error falls after training error "
        "is zero.",
        found,
        reached,
    )
    finish("i_surrogate_loss", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
