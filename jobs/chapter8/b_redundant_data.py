"""(b) Redundant data: of a set that holds every example m times, 1/m of it gives the same gradient (8.1.3).

python jobs/chapter8/b_redundant_data.py        # seconds
"""

import time

import torch
from common import Finding, arrays, figure, finish, perceptron

COPIES = (1, 2, 5, 10, 20)


def main() -> Finding:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = perceptron()
    images, labels = arrays(2000)
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)

    def gradient(copies: int) -> tuple[torch.Tensor, float]:
        many_x, many_y = x.repeat(copies, 1, 1), y.repeat(copies)
        best = float("inf")
        for _ in range(15):
            started = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(many_x), many_y)
            found = torch.autograd.grad(loss, list(model.parameters()))
            best = min(best, time.perf_counter() - started)
        return torch.cat([g.flatten() for g in found]), best

    one, _ = gradient(1)
    results = [gradient(copies) for copies in COPIES]
    differences = [float((found - one).norm() / one.norm()) for found, _ in results]
    costs = [seconds / results[0][1] for _, seconds in results]
    drawn, axes = figure(2)
    axes[0].plot(COPIES, costs, "o-")
    axes[0].set(xlabel="copies m of each example", ylabel="time of the whole set's gradient / of one copy's")
    axes[1].plot(COPIES, differences, "o-")
    axes[1].set(xlabel="copies m of each example", ylabel="relative difference of the gradient")
    finding = Finding(
        "8.1.3",
        "In the worst case all m·n examples are copies of n: the same gradient for m times less work.",
        f"with {COPIES[-1]} copies the gradient differs by {max(differences):.1e} and takes {costs[-1]:.1f} times "
        "as long",
        max(differences) < 1e-5 and costs[-1] > COPIES[-1] / 3,
    )
    finish("b_redundant_data", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
