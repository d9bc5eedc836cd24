"""(a) The standard error of the gradient falls as 1/√n (8.1.3).

python jobs/chapter8/a_standard_error.py        # seconds
"""

import numpy as np
import torch
from common import Finding, arrays, figure, finish, perceptron

SIZES = (1, 4, 16, 64, 256, 1024)
REPEATS = 60


def main() -> Finding:
    torch.manual_seed(0)
    model = perceptron()
    images, labels = arrays(20_000)
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)

    def gradient(rows: torch.Tensor | slice) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    whole = gradient(slice(None))
    generator = torch.Generator().manual_seed(1)
    errors = []
    for size in SIZES:
        rows = [torch.randint(len(y), (size,), generator=generator) for _ in range(REPEATS)]
        errors.append(float(np.mean([float((gradient(r) - whole).square().sum()) for r in rows]) ** 0.5))
    slope = float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])
    drawn, (axes,) = figure()
    axes.loglog(SIZES, errors, "o", label="measured")
    axes.loglog(SIZES, errors[0] * np.array(SIZES) ** -0.5, "k:", label="1/√n")
    axes.set(xlabel="examples n", ylabel="standard error of the gradient")
    axes.legend(frameon=False)
    finding = Finding(
        "8.1.3",
        "The standard error of the mean gradient over n examples is σ/√n.",
        f"fitted exponent {slope:+.3f} over n = {SIZES[0]} … {SIZES[-1]:,}; four times the examples halve it",
        abs(slope + 0.5) < 0.03,
    )
    finish("a_standard_error", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
