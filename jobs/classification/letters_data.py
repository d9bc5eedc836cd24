"""Gets letters and syllables, spoken in 20 languages, out of Debian's package `klettres-data`.

    python jobs/classification/letters_data.py data/letters       # 40 MB over the network, some seconds; needs apt
    streamtrain pack data/letters/sounds data/letters/packed

Written: `sounds/LANGUAGE/NAME.ogg`, 1,836 files.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

PACKAGE = "klettres-data"
INSIDE = PurePosixPath("usr/share/klettres")


def fetch(folder: Path) -> Path:
    """The package in ``folder``."""
    print(f"getting {PACKAGE} with apt-get", flush=True)
    if shutil.which("apt-get") is None:
        sys.exit("no apt-get here: run it on Debian or Ubuntu, and copy the folder")
    done = subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"apt-get download {PACKAGE} failed, perhaps for want of `apt-get update`: {done.stderr.strip()[-300:]}"
        )
    (package,) = folder.glob("*.deb")
    return package


def unpack(package: Path, folder: Path) -> int:
    """Writes the package's sounds into the folders of their languages; how many."""
    count = 0
    shown = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    with shown, tarfile.open(fileobj=shown.stdout, mode="r|") as files:
        for member in files:
            name = PurePosixPath(member.name)
            if name.suffix != ".ogg" or not member.isfile():
                continue
            language, *rest = name.relative_to(INSIDE).parts
            data = files.extractfile(member)
            assert data is not None
            (folder / language).mkdir(parents=True, exist_ok=True)
            (folder / language / "_".join(rest)).write_bytes(data.read())
            count += 1
    if shown.returncode != 0:
        sys.exit(f"dpkg-deb could not read {package.name}; get it again")
    return count


def main(folder: Path) -> None:
    sounds = folder / "sounds"
    shutil.rmtree(sounds, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        count = unpack(fetch(Path(scratch)), sounds)
    print(f"{sounds}: {count:,} sounds")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
