"""What users' own functions cost: sounds and pictures made ready, and a language model from shards to updates.

    python -m tests.benchmarks.jobs [--json] [--only map pictures language train] [--rounds 5]

`map`: spectrograms of one second in plain Python and NumPy, by one and by two processes, beside PyTorch's DataLoader
with two workers over the same arrays in memory. `pictures`: JPEG 500×375 of two photographs, a random crop to 224×224,
mirrored or not, as floats; beside Pillow in a DataLoader with two workers, which cuts and resizes at once, and DALI's
pipeline on the CPU, which decodes only what is cut, with two threads. `language`: the GPT of `jobs/text/language.py`,
with AdamW, from shards to updates by two workers; beside DDP with gloo over a file of the same rows mapped into memory.
`train`: a small convolutional network on such JPEG made 64×64, from shards to updates; and Ray Train with WebDataset.
Two cores, one thread a process. A ratio is of examples/s, the median of rounds in turn; content is checked before.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.measuring import on_standard_error, rates, report
from tests.benchmarks.of_jobs import language, pictures, pictures_train, spectrograms

Measured = tuple[dict[str, float], dict[str, float]]


def measure_map(root: Path, rounds: int) -> Measured:
    """Spectrograms."""
    contenders = spectrograms.contenders(root)
    found = rates(contenders, rounds)
    return found, {
        "map_two_streamers_vs_one": found["map, two streamers"] / found["map, one streamer"],
        "map_vs_dataloader": found["map, two streamers"] / found["map, DataLoader"],
    }


def measure_pictures(root: Path, rounds: int) -> Measured:
    """Pictures; DALI's where it is installed."""
    contenders = pictures.contenders(root)
    found = rates(contenders, rounds)
    ours = found["pictures, ours"]
    ratios = {"pictures_vs_dataloader": ours / found["pictures, Pillow in a DataLoader"]}
    if "pictures, DALI" in found:
        ratios["pictures_vs_dali"] = ours / found["pictures, DALI"]
    else:
        print("no pictures_vs_dali: nvidia-dali-cuda120 and nvidia-nvimgcodec-cu12 are not installed", file=sys.stderr)
    return found, ratios


def measure_language(root: Path, rounds: int) -> Measured:
    """A language model."""
    with language.contenders(root) as contenders:
        found = rates(contenders, rounds)
    return found, {"language_vs_ddp": found["language, ours"] / found["language, DDP"]}


def measure_train(root: Path, rounds: int) -> Measured:
    """Pictures, from shards to updates; Ray Train starts anew for each round."""
    ours, theirs = pictures_train.rates(root, min(rounds, 3))
    found = {"pictures to updates, ours": ours, "pictures to updates, Ray Train": theirs}
    return found, {"pictures_train_vs_raytrain": ours / theirs}


PARTS: dict[str, Callable[[Path, int], Measured]] = {
    "map": measure_map,
    "pictures": measure_pictures,
    "language": measure_language,
    "train": measure_train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for part in given.only:
        root = Path(tempfile.mkdtemp(prefix=f"streamtrain-{part}-"))
        try:
            with on_standard_error():
                found, of_part = PARTS[part](root, given.rounds)
        finally:
            shutil.rmtree(root)
        figures |= found
        ratios |= of_part
    report("Examples/s", figures, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
