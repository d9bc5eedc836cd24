"""(j) λᵗ: gradients through time vanish or explode with the recurrent matrix' eigenvalues (8.2.5).

python jobs/chapter8/j_through_time.py        # half a minute
"""

import functools

import torch
from common import Finding, figure, finish, job, packed

import streamtrain as st

RADII = (0.5, 0.8, 1.0, 1.25, 1.6)


class Linear(torch.nn.Module):
    """28 rows, one after the other; an all but linear recurrence: ReLU far from its kink."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.recurrent = torch.nn.RNN(28, 16, nonlinearity="relu", batch_first=True)
        self.last = torch.nn.Linear(16, 10)
        with torch.no_grad():
            for parameter in self.recurrent.parameters():
                parameter.zero_()
            self.recurrent.weight_hh_l0.copy_(radius * torch.eye(16).roll(1, 0))
            self.recurrent.weight_ih_l0.uniform_(0.01, 0.1)
            self.last.weight.mul_(0.01 / max(1.0, radius) ** 28)  # so that the loss's own curvature stays out of it

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(image)
        return self.last(states[:, -1])


def main() -> Finding:
    data = packed("8000", 8000)
    found = {}
    for radius in RADII:
        model = functools.partial(Linear, radius)
        declared = job(data, model, mode=st.Online(max_examples=32), optimizer=st.SGD(lr=1e-9), batch_size=32)
        result = st.train(declared, name=f"radius-{radius}")
        probe = st.probe(declared, result.folder, examples=500, iterations=2)
        assert probe.through_time is not None
        found[radius] = probe.through_time
    drawn, (axes,) = figure()
    for radius, time in found.items():
        axes.semilogy([norm / time.norms[0] for norm in time.norms], "o", markersize=3, label=f"λ = {radius}")
        axes.semilogy([radius**t for t in range(len(time.norms))], "k:", linewidth=0.8)
    axes.set(xlabel="steps before the end, t", ylabel="gradient norm (dotted: λᵗ)")
    axes.legend(frameon=False)
    worst = max(abs(time.growth / radius - 1) for radius, time in found.items())
    finding = Finding(
        "8.2.5",
        "Through t steps a gradient is scaled by λᵗ: it vanishes for |λ| < 1 and explodes for |λ| > 1.",
        "factor a step, by spectral radius: "
        + ", ".join(f"{radius}: {time.growth:.3f}" for radius, time in found.items()),
        worst < 0.02,
    )
    finish("j_through_time", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
