"""In which of 20 languages is a letter spoken? Sound becomes spectrograms in Python, in two processes for each worker.

    python jobs/classification/letters_data.py data/letters
    streamtrain pack data/letters/sounds data/letters/packed
    streamtrain train jobs/classification/letters.py

Needs `soundfile`, which the extra `jobs` brings. Each language has a few speakers, who are in all splits: what is told
apart are voices as much as languages.
"""

import functools
import io
from typing import Any

import numpy as np
import torch

import streamtrain as st

RATE = 16_000  # samples/s
WINDOW, HOP = 400, 160  # samples: 25 ms, 10 ms
FRAMES, BANDS = 98, 64  # a second of sound
LANGUAGES = 20


def decode(data: bytes) -> np.ndarray:
    """A second of sound around its middle of energy, silence where there is none; float32 (RATE,)."""
    import soundfile
    from scipy.signal import resample_poly

    wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    sound = resample_poly(wave.mean(1), RATE, rate)
    energy = np.cumsum(sound**2)
    middle = int(np.searchsorted(energy, energy[-1] / 2)) if len(sound) else 0
    return np.pad(sound, RATE // 2)[middle : middle + RATE].astype(np.float32)


@functools.cache
def bands() -> np.ndarray:
    """How much of each frequency counts in each band of the mel scale: triangles, (frequencies, BANDS)."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def spectrogram(example: dict[str, Any]) -> dict[str, Any]:
    """How loud each band is over time: its logarithm, mean 0 and deviation 1, float32 (1, BANDS, FRAMES)."""
    pieces = np.lib.stride_tricks.sliding_window_view(decode(example["audio"]), WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(pieces * np.hanning(WINDOW))) ** 2
    loud = np.log(power @ bands() + 1e-6).T
    return {"sound": ((loud - loud.mean()) / (loud.std() + 1e-6)).astype(np.float32)[None], "label": example["label"]}


def masked(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Later or earlier by up to a tenth of a second; one stretch of time and one of bands have no sound."""
    sound = np.roll(example["sound"], rng.integers(-10, 11), axis=2)
    start, first = rng.integers(0, FRAMES - 16), rng.integers(0, BANDS - 10)
    sound[:, :, start : start + rng.integers(1, 17)] = 0
    sound[:, first : first + rng.integers(1, 11)] = 0
    return {**example, "sound": sound}


def layer(channels: int, more: int) -> torch.nn.Sequential:
    """Half of each side, more channels."""
    convolution = torch.nn.Conv2d(channels, more, 3, padding=1)
    return torch.nn.Sequential(convolution, torch.nn.GroupNorm(8, more), torch.nn.ReLU(), torch.nn.MaxPool2d(2))


def model() -> torch.nn.Module:
    """Three layers of 16, 32 and 64 channels, their mean over time and bands, and a score for each language."""
    return torch.nn.Sequential(
        *(layer(1, 16), layer(16, 32), layer(32, 64)),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, LANGUAGES)),
    )


job = st.Job(
    data=st.Data("data/letters/packed", inputs=("sound",), map=spectrogram, augment=masked, streamers=2),
    model=model,
    mode=st.Epochs(max_passes=20, patience=20),
    evaluate=st.Evaluate(every=7_000),
    optimizer=st.AdamW(lr=3e-3, weight_decay=0.05),
    schedule=st.Schedule("cosine", warmup_steps=30),
    batch_size=32,
    workers=2,
)

if __name__ == "__main__":
    st.train(job)
