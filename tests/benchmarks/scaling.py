"""What a step costs with more workers than this machine has cores for: measured, fitted, predicted.

    python -m tests.benchmarks.scaling [--json] [--workers 1 2 4 8 16] [--megabytes 0.25 4] [--links 1 10]

Runs both exchanges without a model, and fits ``t = a + b·(w - 1) + c·S + d·S·(w - 1)`` over ``w`` workers and ``S`` MB
by relative least squares. Predicted from it for ``H`` hosts of one worker each on a network of ``B`` MB/s:

    T(H) = F/H + a + b·(H - 1) + c·S + 2·S·(H - 1)/H·(1/B + d)

``F``: seconds of forward and backward of the whole minibatch on one worker. A host sends ``2·S·(H - 1)/H``: its
subtree's sum but for its own share, and its share of the means to all others, where lanes over workers is a power of
two. ``d`` is what a core takes to move a MB of it: ``w`` workers who take turns on two cores move ``S·(w - 1)`` MB on
each. So do the messages of all workers, hence ``b`` is an upper bound, and with it what is predicted for many hosts.
Every host makes the whole update, hence ``c·S``.

With ``--links`` the formula's wire is tried on this machine: 1, 2 and 4 hosts in network namespaces, each with a link
of so many Gbit/s (`links.py`), against ``a + b·(H - 1) + c·S + d·S·(H - 1) + 2·S·(H - 1)/H/B``. The hosts share the
cores, so what cores take is that of as many workers; ``B`` is what TCP leaves of the link.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import product

import numpy as np

from tests.benchmarks.exchange import measured
from tests.benchmarks.rounds import machine

NETWORKS = {"10 Gbit/s": 1250.0, "25 Gbit/s": 3125.0, "100 Gbit/s": 12500.0}
"""MB/s."""
MODELS = {"1 MB": (1.0, 0.006), "12 MB": (12.0, 0.06), "100 MB": (100.0, 1.0)}
"""MB of parameters, and seconds of forward and backward of a minibatch: the two perceptrons of `train`, and a guess."""
HOSTS = (1, 2, 4, 8, 16)

Fit = tuple[float, float, float, float]


def fit(points: list[tuple[int, float, float]]) -> Fit:
    """``a``, ``b``, ``c`` and ``d`` out of (workers, megabytes, seconds), none below 0."""
    rows = np.array([[1.0, workers - 1, size, size * (workers - 1)] for workers, size, _ in points])
    seconds = np.array([each for _, _, each in points])
    solution = np.linalg.lstsq(rows / seconds[:, None], np.ones(len(points)), rcond=None)[0]
    a, b, c, d = (max(0.0, float(value)) for value in solution)
    return a, b, c, d


def predicted(costs: Fit, size: float, compute: float, hosts: int, bandwidth: float) -> float:
    """Seconds a step; see the module."""
    a, b, c, d = costs
    sent = 2 * size * (hosts - 1) / hosts
    return compute / hosts + a + b * (hosts - 1) + c * size + sent * (1 / bandwidth + d)


def predicted_here(costs: Fit, size: float, hosts: int, bandwidth: float) -> float:
    """Seconds a step of hosts that share this machine's cores, without a model; see the module."""
    a, b, c, d = costs
    return a + b * (hosts - 1) + c * size + d * size * (hosts - 1) + 2 * size * (hosts - 1) / hosts / bandwidth


def between(costs: Fit, links: list[float], sizes: list[float], rounds: int = 3) -> list[dict[str, float]]:
    """Measured and predicted seconds of 1, 2 and 4 hosts, for each link and size."""
    from tests.benchmarks.links import MEGABYTES_A_GBIT, USABLE, measured_between

    found = []
    for gigabits, size, hosts in product(links, sizes, (1, 2, 4)):
        seconds = measured_between(hosts, size, gigabits, rounds)
        expected = predicted_here(costs, size, hosts, gigabits * MEGABYTES_A_GBIT * USABLE)
        found.append(
            {"Gbit/s": gigabits, "MB": size, "hosts": hosts, "measured": seconds, "predicted": expected}
            | {"ratio": expected / seconds}
        )
    return found


def main() -> None:
    """Prints what was measured, the fits, and the table of the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--megabytes", type=float, nargs="*", default=[0.25, 4.0])
    parser.add_argument("--links", type=float, nargs="*", default=[], help="Gbit/s of links to try; as root")
    arguments = parser.parse_args()
    points: dict[str, list[tuple[int, float, float]]] = {"shared": [], "collective": []}
    for workers, size in product(arguments.workers, arguments.megabytes):
        seconds = measured(workers, size, rounds=3, peer=False)
        for name, found in points.items():
            found.append((workers, size, statistics.median(seconds[name])))
    fits = {name: fit(found) for name, found in points.items()}
    table = {
        f"{model}, {network}": [predicted(fits["collective"], size, compute, h, bandwidth) for h in HOSTS]
        for (model, (size, compute)), (network, bandwidth) in product(MODELS.items(), NETWORKS.items())
    }
    links = between(fits["collective"], arguments.links, arguments.megabytes)
    ratios = {f"{x['Gbit/s']:g}_gbit_{x['MB']:g}_mb_{x['hosts']}_hosts": x["ratio"] for x in links}
    if arguments.json:
        found = {"points": points, "fits": fits, "predicted": table, "links": links}
        print(json.dumps({"ratios": ratios, **found, "machine": machine()}))
        return
    for each in links:
        print(", ".join(f"{name} {value:.4g}" for name, value in each.items()))
    for name, found in points.items():
        print(f"{name}: a, b, c, d = {', '.join(f'{1e3 * value:.3f} ms' for value in fits[name])}")
        for workers, size, each in found:
            print(f"  {workers:2d} workers, {size:6.2f} MB {1e3 * each:8.2f} ms")
    print("| model, network | " + " | ".join(f"{h} host{'s' * (h > 1)}" for h in HOSTS) + " |")
    print("| --- " * (len(HOSTS) + 1) + "|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{1e3 * each:.1f} ms" for each in row) + " |")


if __name__ == "__main__":
    main()
