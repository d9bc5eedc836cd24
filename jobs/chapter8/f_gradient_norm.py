"""(f) The gradient's norm grows while training succeeds: training need not end near a critical point (figure 8.1).

    python jobs/chapter8/f_gradient_norm.py        # a minute

A small convolutional network, as in the figure. The figure's curve rises to the end, so that is what is asked: that
each quarter of the run has a larger mean norm than the one before.
"""

import numpy as np
import torch
from common import Finding, curve, figure, finish, job, packed

import streamtrain as st


def convolutional() -> torch.nn.Module:
    """Two convolutions and a linear layer: 6,954 parameters."""
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 28)),
        torch.nn.Conv2d(1, 8, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    )


def main() -> Finding:
    data = packed("8000", 8000)
    settings = {"mode": st.Epochs(max_passes=8, patience=8), "optimizer": st.SGD(lr=0.05), "batch_size": 16}
    result = st.train(job(data, convolutional, **settings), name="gradient-norm")
    steps, norms = curve(result, "gradient/norm")
    width = 50
    smooth = np.convolve(norms, np.ones(width) / width, "valid")
    errors = [p.generalization.error.mean for p in result.evaluations]
    drawn, axes = figure(2)
    axes[0].plot(steps, norms, ".", markersize=2, alpha=0.4)
    axes[0].plot(steps[width - 1 :], smooth)
    axes[0].set(xlabel="updates", ylabel="gradient norm (dots: mean of 10 minibatches)")
    axes[1].plot([p.step for p in result.evaluations], errors, "o-")
    axes[1].set(xlabel="updates", ylabel="held-out error")
    early, late = float(norms[:5].mean()), float(norms[-100:].mean())
    quarters = [float(part.mean()) for part in np.array_split(norms, 4)]
    finding = Finding(
        "8.2.2, figure 8.1",
        "The gradient's norm grows while training succeeds, and does not arrive at a critical point.",
        f"mean norm {early:.2f} over the first 50 updates, {smooth.max():.2f} at its highest, {late:.2f} over the last "
        f"1,000, and {', '.join(f'{norm:.2f}' for norm in quarters)} over the quarters of the run, while the held-out "
        f"error falls from {errors[0]:.1%} after pass 1 to {min(errors):.1%}",
        quarters == sorted(quarters) and min(errors) < errors[0],
    )
    finish("f_gradient_norm", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
