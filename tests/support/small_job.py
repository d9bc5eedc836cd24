"""A small job with BatchNorm and dropout, which trains on digits in some seconds."""

import hashlib
from pathlib import Path

import torch

import streamtrain as st


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


def model() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 64),
        torch.nn.BatchNorm1d(64),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(64, 10),
    )


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def job_on(folder: Path, runs: Path, **settings: object) -> st.Job:
    return st.Job(
        st.Data(str(folder), transform=scaled),
        model,
        mode=settings.pop("mode", st.Epochs(max_passes=3)),  # type: ignore[arg-type]
        optimizer=settings.pop("optimizer", st.SGD(lr=0.2, momentum=0.9)),  # type: ignore[arg-type]
        batch_size=48,
        workers=2,
        tracking=st.Tracking(uri=f"sqlite:///{runs / 'mlflow.db'}", folder=str(runs / "runs"), log_model=False),
        **settings,  # type: ignore[arg-type]
    )
