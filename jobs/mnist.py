"""MNIST with a small multilayer perceptron, many passes with early stopping.

    streamtrain train jobs/mnist.py                    # about a minute on 2 cores, validation error near 2 %
    streamtrain train jobs/mnist.py --mode online      # one pass: validation error near 5 %, and hardly a gap

The data set is made by `make data` (or by `make demo`, which runs both modes).
"""

import torch

import streamtrain as st


def model() -> torch.nn.Module:
    """784-256-256-10, ReLU."""
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(784, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels from 0 … 255 to 0 … 1."""
    return {**batch, "image": batch["image"].float() / 255}


job = st.Job(
    data=st.Data("data/mnist", inputs=("image",), target="label", transform=scaled),
    model=model,
    loss="cross_entropy",
    mode=st.Epochs(max_passes=20, patience=3),
    optimizer=st.SGD(lr=0.05, momentum=0.9),
    clip=st.Clip(norm=1.0),
    batch_size=64,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
