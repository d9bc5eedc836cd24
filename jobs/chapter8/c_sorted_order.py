"""(c) Examples must be shuffled: one pass over data sorted by class against one over the same data shuffled (8.1.3).

    python jobs/chapter8/c_sorted_order.py        # a minute

The sorted set is written with `webdataset`, as somebody might who does not shuffle; streamtrain trains on it in the
order in which it lies, and tags the run `dataset.order: unknown`.
"""

from pathlib import Path

import numpy as np
import webdataset
from common import Finding, arrays, figure, finish, job

import streamtrain as st

EXAMPLES, HELD_OUT = 4000, 1000


def written(name: str, order: np.ndarray) -> Path:
    """A folder of shards whose training split lies in this order."""
    folder = Path("data/chapter8") / name
    images, labels = arrays(EXAMPLES + HELD_OUT)
    for split, rows in (("train", order), ("validation", np.arange(EXAMPLES, EXAMPLES + HELD_OUT))):
        (folder / split).mkdir(parents=True, exist_ok=True)
        with webdataset.ShardWriter(str(folder / split / "%03d.tar"), maxcount=2000, verbose=0) as shards:
            for key, row in enumerate(rows):
                shards.write({"__key__": f"{key:06d}", "image.npy": images[row], "label.cls": int(labels[row])})
    return folder


def main() -> Finding:
    _, labels = arrays(EXAMPLES)
    orders = {"sorted by class": np.argsort(labels, kind="stable"), "shuffled": np.arange(EXAMPLES)}
    results = {}
    for name, order in orders.items():
        folder = written(name.replace(" ", "_"), order)
        settings = {"mode": st.Online(window=200), "optimizer": st.SGD(lr=0.1), "batch_size": 32}
        results[name] = st.train(job(folder, **settings), name=name.replace(" ", "-"))
    drawn, (axes,) = figure()
    for name, result in results.items():
        points = result.evaluations
        means = [p.generalization.error.mean for p in points]
        axes.errorbar(
            [p.examples_used for p in points],
            means,
            [p.generalization.error.standard_error for p in points],
            label=name,
        )
    axes.set(xlabel="examples used", ylabel="held-out error")
    axes.legend(frameon=False)
    at = {name: result.chosen.generalization.error for name, result in results.items()}
    worse = at["sorted by class"].mean - at["shuffled"].mean
    finding = Finding(
        "8.1.3",
        "Examples in an order with meaning give biased gradients: shuffle once before training.",
        f"held-out error after one pass: sorted {at['sorted by class'].mean:.1%}, shuffled {at['shuffled'].mean:.1%}",
        worse > 2 * np.hypot(*(moments.standard_error for moments in at.values())),
    )
    finish("c_sorted_order", drawn, finding)
    return finding


if __name__ == "__main__":
    main()
