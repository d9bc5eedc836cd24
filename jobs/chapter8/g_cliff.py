"""(g) A cliff: a recurrent network with and without clipping of the gradient's norm (8.2.4, figure 8.3).

    python jobs/chapter8/g_cliff.py        # a minute

MNIST's rows as a sequence of 28 steps, a recurrent matrix whose eigenvalues are of size 1.5, a learning rate that suits
the flat parts of the surface.
"""

import numpy as np
import torch
from common import Finding, curve, figure, finish, job, packed

import streamtrain as st


class Recurrent(torch.nn.Module):
    """28 rows, one after the other, into 64 tanh units; the last state is classified."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.recurrent = torch.nn.RNN(28, 64, batch_first=True)
        self.last = torch.nn.Linear(64, 10)
        with torch.no_grad():
            torch.nn.init.orthogonal_(self.recurrent.weight_hh_l0).mul_(radius)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(image)
        return self.last(states[:, -1])


def model() -> torch.nn.Module:
    return Recurrent(1.5)


def main() -> Finding:
    data = packed("8000", 8000)
    results = {}
    for name, bound in (("clipped at 1", 1.0), ("not clipped", None)):
        settings = {
            "mode": st.Online(window=500),
            "optimizer": st.SGD(lr=0.1),
            "batch_size": 16,
            "clip": st.Clip(norm=bound),
        }
        results[name] = st.train(job(data, model, **settings), name=name.replace(" ", "-"))
    drawn, axes = figure(2)
    for name, result in results.items():
        axes[0].plot(*curve(result, "minibatch/loss"), label=name, alpha=0.8)
        axes[1].semilogy(*curve(result, "gradient/norm"), label=name, alpha=0.8)
    axes[0].set(xlabel="updates", ylabel="minibatch loss")
    axes[1].set(xlabel="updates", ylabel="gradient norm")
    axes[0].legend(frameon=False)
    losses = {name: result.chosen.generalization.loss for name, result in results.items()}
    clipped, free = losses["clipped at 1"], losses["not clipped"]
    highest = float(curve(results["not clipped"], "gradient/norm")[1].max())
    finding = Finding(
        "8.2.4, figure 8.3",
        "Where the surface has cliffs, gradient descent without clipping is thrown far away; with clipping it is not.",
        f"held-out loss after one pass: clipped {clipped.mean:.2f} ± {clipped.standard_error:.2f}, not clipped "
        f"{free.mean:.2f} ± {free.standard_error:.2f} (gradient norms up to {highest:.0f})",
        free.mean - clipped.mean > 2 * float(np.hypot(free.standard_error, clipped.standard_error)),
    )
    finish("g_cliff", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
