"""Spectrograms of one second of sound in plain Python and NumPy: a function that holds the interpreter all the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import streamtrain as st

EXAMPLES, BATCH = 2_000, 64
RATE, WINDOW, HOP, BANDS = 16_000, 400, 160, 64
HANN = np.hanning(WINDOW).astype(np.float32)
WEIGHTS = np.random.default_rng(2).random((WINDOW // 2 + 1, BANDS)).astype(np.float32)
"""How much each frequency counts in each band; which bands they are is no matter here."""


def spectrogram(example: dict[str, Any]) -> dict[str, Any]:
    """How loud each band is, frame by frame: float32 (98, BANDS)."""
    sound = example["sound"].astype(np.float32)
    frames = []
    for start in range(0, RATE - WINDOW + 1, HOP):
        power = np.abs(np.fft.rfft(sound[start : start + WINDOW] * HANN)) ** 2
        frames.append(np.log(power.astype(np.float32) @ WEIGHTS + 1))
    return {"spectrogram": np.stack(frames), "label": example["label"]}


class InMemory(torch.utils.data.Dataset[dict[str, Any]]):
    """The peer's: the same examples in the same order."""

    def __init__(self, sounds: np.ndarray, labels: np.ndarray) -> None:
        self._sounds, self._labels = sounds, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return spectrogram({"sound": self._sounds[number], "label": self._labels[number]})


def contenders(root: Path) -> dict[str, Callable[[], int]]:
    """Ours with one and with two processes, and the DataLoader with two; that the batches are equal is checked."""
    draw = np.random.default_rng(1)
    sounds = draw.integers(-(2**15), 2**15, (EXAMPLES, RATE), np.int16)
    np.savez(root / "sounds.npz", sound=sounds, label=draw.integers(0, 10, EXAMPLES))
    st.pack(root / "sounds.npz", root / "packed", st.PackOptions(splits=(1, 0, 0), seed=1))
    stored = st.open(root / "packed")[:]
    ours = {number: st.open(root / "packed", map=spectrogram, streamers=number).batches(BATCH) for number in (1, 2)}
    peer = torch.utils.data.DataLoader(InMemory(stored["sound"], stored["label"]), BATCH, num_workers=2)
    for mine, others in zip(ours[2], peer, strict=True):
        assert all(torch.equal(mine[name], others[name]) for name in ("spectrogram", "label"))
    batches = {"map, one streamer": ours[1], "map, two streamers": ours[2], "map, DataLoader": peer}
    return {name: (lambda each=each: sum(len(batch["label"]) for batch in each)) for name, each in batches.items()}
