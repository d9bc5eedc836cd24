"""JPEG 500×375 to random crops of 224×224 as floats: ours, Pillow in a DataLoader, and DALI's pipeline on the CPU."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

import streamtrain as st

EXAMPLES, BATCH, SIDE = 1_200, 64, 224
HEIGHT, WIDTH = 375, 500


def draw_box(rng: np.random.Generator) -> tuple[int, int, int, int, bool]:
    """Top, left, height and width of 8 % to all of the picture, sides from 3:4 to 4:3; and whether it is mirrored."""
    for _ in range(10):
        area, sides = HEIGHT * WIDTH * rng.uniform(0.08, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if width <= WIDTH and height <= HEIGHT:
            break
    else:
        width, height = WIDTH, HEIGHT
    top, left = rng.integers(0, HEIGHT - height + 1), rng.integers(0, WIDTH - width + 1)
    return int(top), int(left), height, width, bool(rng.random() < 0.5)


def cropped(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Ours: of the decoded picture."""
    top, left, height, width, mirrored = draw_box(rng)
    part = example["image"][top : top + height, left : left + width]
    shrinks = height * width > SIDE * SIDE
    image = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    box = np.array((top, left, height, width, mirrored))
    return {"image": image[:, ::-1] if mirrored else image, "label": example["label"], "box": box}


def as_floats(images: torch.Tensor) -> torch.Tensor:
    """Colours first, from 0 to 1."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def by_pillow(file: Path, box: tuple[int, int, int, int, bool]) -> torch.Tensor:
    """The peer's: cut and resized in one call; uint8 (SIDE, SIDE, 3)."""
    top, left, height, width, mirrored = box
    picture = Image.open(file).resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return torch.from_numpy(np.array(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture))


class Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The peer's data set."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = by_pillow(self._files[number], draw_box(np.random.default_rng(number)))
        return as_floats(image[None])[0], int(self._files[number].parent.name)


def write_pictures(folder: Path) -> list[Path]:
    """Parts of two photographs that come with scikit-learn, a folder each."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(1)
    photographs = [Image.fromarray(each) for each in load_sample_images().images]
    files = []
    for number in range(EXAMPLES):
        photograph = photographs[number % 2]
        width = int(draw.integers(photograph.width // 2, photograph.width * 7 // 8))
        height = width * HEIGHT // WIDTH
        left, top = draw.integers(photograph.width - width + 1), draw.integers(photograph.height - height + 1)
        picture = photograph.resize((WIDTH, HEIGHT), box=(left, top, left + width, top + height))
        files.append(folder / str(number % 2) / f"{number:04}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        picture.save(files[-1], quality=92)
    return files


def dali_batches(files: list[Path]) -> Callable[[], Iterator[np.ndarray]] | None:
    """Batches of a pass by DALI, float32 (examples, 3, SIDE, SIDE); none where it is not installed."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return None
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=2, device_id=None)
    def pipeline() -> Any:
        data, _ = fn.readers.file(files=[str(file) for file in files])
        images = fn.decoders.image_random_crop(data, device="cpu", random_area=[0.08, 1.0])
        images = fn.resize(images, resize_x=SIDE, resize_y=SIDE)
        mirror, scale = fn.random.coin_flip(), [255.0] * 3
        return fn.crop_mirror_normalize(images, mirror=mirror, dtype=types.FLOAT, mean=[0.0] * 3, std=scale)

    built = pipeline()
    built.build()
    return lambda: (built.run()[0].as_array() for _ in range(len(files) // BATCH))


def contenders(root: Path) -> dict[str, Callable[[], int]]:
    """Each makes one pass over full minibatches; the content of the first is checked."""
    files = write_pictures(root / "pictures")
    st.pack(root / "pictures", root / "packed", st.PackOptions(splits=(1, 0, 0), seed=1))
    ours = st.open(root / "packed", augment=cropped, streamers=2).batches(BATCH, drop_last=True)
    peer = torch.utils.data.DataLoader(Files(files), BATCH, num_workers=2, drop_last=True)
    mean = check(root, next(iter(ours)))
    assert abs(float(next(iter(peer))[0].mean()) - mean) < 0.1
    made: dict[str, Callable[[], int]] = {
        "pictures, ours": lambda: sum(len(as_floats(batch["image"])) for batch in ours),
        "pictures, Pillow in a DataLoader": lambda: sum(len(images) for images, _ in peer),
    }
    dali = dali_batches(files)
    if dali is not None:
        first = next(dali())
        assert first.shape == (BATCH, 3, SIDE, SIDE) and first.dtype == np.float32 and abs(first.mean() - mean) < 0.1
        made["pictures, DALI"] = lambda: sum(len(images) for images in dali())
    return made


def check(root: Path, batch: dict[str, torch.Tensor]) -> float:
    """Whether each of our crops is what Pillow makes of the same box; their mean level, from 0 to 1."""
    packed = st.open(root / "packed")
    for number in range(BATCH):
        Image.fromarray(packed[number]["image"]).save(root / "one.png")
        top, left, height, width, mirrored = batch["box"][number].tolist()
        expected = by_pillow(root / "one.png", (top, left, height, width, bool(mirrored)))
        difference = (batch["image"][number].int() - expected.int()).abs().float().mean()
        assert difference < 8, f"{number}: {difference:.1f} levels"
        assert int(batch["label"][number]) == int(packed[number]["label"])
    return float(as_floats(batch["image"]).mean())
