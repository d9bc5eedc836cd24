"""Images that cannot make one batch are refused before Ray starts, by the manifest, with the setting that cures it."""

from pathlib import Path

import pytest
import torch

import streamtrain as st
from streamtrain.prepare.plan import plan
from streamtrain.prepare.trial import preflight
from tests.support.pictures import encoded, picture

KINDS = {
    "grey among colour": (
        ("RGB", "L"),
        'expected images of one kind, found 14 grey, 16 rgb; set data.image_mode to "rgb"',
    ),
    "alpha among none": (
        ("RGB", "RGBA"),
        '14 rgba; set data.image_mode to "rgba", or to "rgb" to lay them on data.image_b',
    ),
    "16 bits among 8": (("L", "I;16"), 'found 16 grey, 14 grey16; set data.image_mode to "grey"'),
    "32 bits": (("I", "L"), "set data.map, or bring the files to one kind"),
}


def flat(channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 8 * channels, 2))


def scaled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**batch, "image": batch["image"].float() / 255}


def packed(folder: Path, modes: tuple[str, str]) -> str:
    """Thirty images of two modes, of which the rarer is the first to be looked at or not."""
    for number in range(30):
        (folder / "raw" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        mode = modes[number % 15 % 2]
        kind = "TIFF" if mode in ("I", "I;16") else "PNG"
        data = encoded(picture(mode, number), kind)
        assert data is not None
        (folder / "raw" / "ab"[number % 2] / f"{number}.png").write_bytes(data)
    st.pack(folder / "raw", folder / "packed")
    return str(folder / "packed")


@pytest.mark.parametrize("case", KINDS)
def test_kinds_that_mix_are_refused_with_what_cures_it(case: str, tmp_path: Path) -> None:
    modes, message = KINDS[case]
    url = packed(tmp_path, modes)
    for size in (None, (8, 8)):
        with pytest.raises(st.ConfigError) as raised:
            preflight(plan(st.Job(st.Data(url, image_size=size), lambda: flat(3))))
        assert message in str(raised.value) and "field 'image'" in str(raised.value)
    mode = "rgb" if case != "32 bits" else None
    if mode:
        data = st.Data(url, image_size=(8, 8), image_mode="rgb", transform=scaled)
        preflight(plan(st.Job(data, lambda: flat(3))))


def test_sizes_that_mix_and_levels_that_have_no_8_bits(tmp_path: Path) -> None:
    url = packed(tmp_path, ("I", "I"))
    with pytest.raises(st.ConfigError, match="expected levels of 8 or 16 bits, found int32; leave data.image_mode"):
        preflight(plan(st.Job(st.Data(url, image_mode="rgb"), lambda: flat(3))))
    (tmp_path / "two" / "a").mkdir(parents=True)
    for number in range(20):
        picture("RGB", number).resize((20 + number % 2, 16)).save(tmp_path / "two" / "a" / f"{number}.png")
    st.pack(tmp_path / "two", tmp_path / "sizes")
    with pytest.raises(st.ConfigError, match="expected images of one size, found 16×20 to 16×21; set data.image_size"):
        preflight(plan(st.Job(st.Data(str(tmp_path / "sizes")), lambda: flat(3))))


@pytest.mark.parametrize("wrong", [{"image_mode": "cmyk"}, {"image_background": (0, 0, 256)}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(st.ConfigError, match=next(iter(wrong))):
        st.Data("x", **wrong)  # type: ignore[arg-type]
