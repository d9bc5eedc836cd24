"""Gets pictures of emoji by category out of two npm packages: Google's drawings and Twitter's.

    python jobs/classification/emoji_data.py data/emoji          # 136 MB over the network, half a minute
    streamtrain pack data/emoji/pictures data/emoji/packed

Written: `pictures/{train,validation,test}/CATEGORY/NAME_VENDOR.png`, 64×64 with a transparent background. Of twenty
emoji in a row sixteen, two and two; both drawings of an emoji are in one split. Skin tones are left out.
"""

import json
import random
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `mnist_data` knows where npm is
from mnist_data import fetch

VENDORS = ("google", "twitter")
PACKAGES = {vendor: f"emoji-datasource-{vendor}@16.0.0" for vendor in VENDORS}
SPLITS = ("validation", "validation", "test", "test", *["train"] * 16)


def split_of(emoji: list[dict[str, Any]]) -> dict[str, str]:
    """The split of each emoji, by its picture's name; the same in every vendor's package."""
    names = sorted(each["image"] for each in emoji)
    random.Random(1).shuffle(names)
    return {name: SPLITS[number % len(SPLITS)] for number, name in enumerate(names)}


def lay_out(tarball: tarfile.TarFile, vendor: str, folder: Path) -> int:
    """Writes a vendor's pictures into the folders of their splits and categories; how many."""
    emoji = json.loads(_content(tarball, "package/emoji.json"))
    splits = split_of(emoji)
    count = 0
    for each in emoji:
        if not each[f"has_img_{vendor}"] or each["category"] == "Component":  # skin tones and hair by themselves
            continue
        picture = Path(each["image"])
        category = each["category"].partition(" ")[0].lower()
        file = folder / splits[each["image"]] / category / f"{picture.stem}_{vendor}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_content(tarball, f"package/img/{vendor}/64/{picture}"))
        count += 1
    return count


def _content(tarball: tarfile.TarFile, name: str) -> bytes:
    member = tarball.extractfile(name)
    assert member is not None
    return member.read()


def main(folder: Path) -> None:
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    count = 0
    for vendor, package in PACKAGES.items():
        with tempfile.TemporaryDirectory() as scratch:
            archive = fetch(package, Path(scratch))
            with tarfile.open(archive) as packed, tarfile.open(Path(scratch) / "plain.tar", "w") as plain:
                for member in packed:  # once through: each jump in a compressed file would read it anew
                    if member.name.endswith("/emoji.json") or "/64/" in member.name:
                        plain.addfile(member, packed.extractfile(member))
            with tarfile.open(Path(scratch) / "plain.tar") as tarball:
                count += lay_out(tarball, vendor, pictures)
    print(f"{pictures}: {count:,} pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
