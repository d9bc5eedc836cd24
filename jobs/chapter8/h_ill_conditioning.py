"""(h) Ill-conditioning: gᵀHg grows by more than an order while gᵀg does not shrink (8.2.1).

    python jobs/chapter8/h_ill_conditioning.py        # two minutes

The same run stopped after more and more examples, each time probed.
"""

from common import Finding, figure, finish, job, packed

import streamtrain as st

STOPS = (64, 512, 1500, 3000, 6000)


def main() -> Finding:
    data = packed("8000", 8000)
    probes = []
    for examples in STOPS:
        declared = job(data, mode=st.Online(max_examples=examples), optimizer=st.SGD(lr=0.2), batch_size=32)
        result = st.train(declared, name=f"stop-{examples}")
        probes.append(st.probe(declared, result.folder, examples=1000, iterations=20))
    squared = [p.curvature.squared_gradient for p in probes]
    bend = [p.curvature.gradient_curvature for p in probes]
    drawn, axes = figure(2)
    axes[0].semilogy(STOPS, squared, "o-", label="gᵀg")
    axes[0].plot(STOPS, bend, "o-", label="gᵀHg")
    axes[0].set(xlabel="examples used", yscale="symlog")
    axes[0].legend(frameon=False)
    axes[1].plot(STOPS, [b / s for s, b in zip(squared, bend, strict=True)], "o-", label="gᵀHg / gᵀg")
    axes[1].plot(STOPS, [p.spectrum.largest for p in probes], "o-", label="largest eigenvalue")
    axes[1].set(xlabel="examples used")
    axes[1].legend(frameon=False)
    growth, shrinkage = max(bend) / abs(bend[0]), squared[0] / squared[-1]  # the first curvature may be negative
    ratios = bend[0] / squared[0], bend[-1] / squared[-1]
    finding = Finding(
        "8.2.1",
        "gᵀHg grows by more than an order of magnitude while the gradient's norm does not shrink significantly.",
        f"gᵀHg goes from {bend[0]:.3g} to {bend[-1]:.3g}, at most {max(bend):.3g}, which is {growth:.0f} times its "
        f"first size; gᵀg from {squared[0]:.3g} to {squared[-1]:.3g}; gᵀHg/gᵀg from {ratios[0]:.2g} to {ratios[1]:.2g}",
        growth > 10 and shrinkage < 3,
    )
    finish("h_ill_conditioning", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
