"""(f) The gradient's norm grows while training succeeds: training need not end near a critical point (figure 8.1).

    python jobs/chapter8/f_gradient_norm.py        # a minute

A small convolutional network, as in the figure. A minibatch's gradient has a norm at a critical point too: that of its
noise. So the norm of the risk's gradient is asked for, |G| without the noise, which four lanes tell. The figure's curve
rises to the end: each quarter of the run shall have a larger mean than the one before.
"""

import dataclasses

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


def quarters(values: np.ndarray) -> list[float]:
    """Means over the quarters of the run."""
    return [float(part.mean()) for part in np.array_split(values, 4)]


def shown(means: list[float]) -> str:
    """With two decimals."""
    return ", ".join(f"{each:.2f}" for each in means)


def main() -> Finding:
    data = packed("8000", 8000)
    settings = {"mode": st.Epochs(max_passes=8, patience=8), "optimizer": st.SGD(lr=0.05), "batch_size": 16, "lanes": 4}
    run = job(data, convolutional, **settings)
    run = dataclasses.replace(run, tracking=dataclasses.replace(run.tracking, log_every=2))
    result = st.train(run, name="gradient-norm")
    steps, norms = curve(result, "gradient/norm")
    places, of_risk = curve(result, "gradient/risk_gradient_norm")
    _, squared_noise = curve(result, "gradient/risk_gradient_squared_noise")
    errors = [p.generalization.error.mean for p in result.evaluations]
    drawn, axes = figure(2)
    axes[0].plot(steps, norms, ".", markersize=2, alpha=0.3, label="minibatches (means of 2)")
    axes[0].plot(places, squared_noise**0.5, label="their noise, √(tr Σ/n)")
    axes[0].plot(places, of_risk, label="|G|, without it")
    axes[0].set(xlabel="updates", ylabel="gradient norm")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].plot([p.step for p in result.evaluations], errors, "o-")
    axes[1].set(xlabel="updates", ylabel="held-out error")
    last = result.evaluations[-1].noise
    assert last is not None
    norm, error = last.gradient_norm
    means, noisy = quarters(of_risk), quarters(norms)
    told = "told from 0" if last.squared_gradient > 2 * last.squared_error else "not told from 0"
    finding = Finding(
        "8.2.2, figure 8.1",
        "The gradient's norm grows while training succeeds, and does not arrive at a critical point.",
        f"|G| begins at {of_risk[0]:.2f}, is {of_risk.max():.2f} at most, {shown(means)} over the quarters of the "
        f"run, {norm:.2f} ± {error:.2f} at its end ({told}); "
        f"minibatches' norms are {shown(noisy)}, of which √(tr Σ/n) = {squared_noise[-1] ** 0.5:.2f} at the end is "
        f"noise; the held-out error falls from {errors[0]:.1%} after pass 1 to {min(errors):.1%}",
        means == sorted(means) and min(errors) < errors[0],
    )
    finish("f_gradient_norm", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
