"""The tests of what is added up and shared, on an arm64 Linux that is emulated: `make arm64`.

python -m tests.support.arm64 [TEST …]

As root, with debootstrap, qemu-user-static and binfmt-support: a Debian for arm64 with its Python, and wheels for
arm64. Everything takes some twenty times as long, importing torch alone half a minute.

Emulation on x86-64 shows that the calls of the kernel, the sizes of words and the arithmetic are right. It hides a
wrong order of memory, since an x86-64 keeps the order: for that there are the words in streamtrain/memory_order.py, and
tests/unit/test_memory_order.py, which a real arm64 may fail without them.
"""

import subprocess
import sys
from pathlib import Path

from tests.support.debian import Debian
from tests.support.versions import python_here, uv_in

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "arm64"
PACKAGES = FOLDER / "packages"
TORCH = "torch==2.9.1"
"""The newest whose arm64 wheel is one for CPUs."""
WHEELS = (
    *(TORCH, "numpy", "pytest", "hypothesis", "pytest-timeout", "psutil", "safetensors", "fsspec", "scipy"),
    *("webdataset", "pillow", "pyarrow", "simplejpeg", "opencv-python-headless", "tqdm", "tyro", "cloudpickle"),
)
PYTHON = "3.13"
CHOSEN = ("tests/unit/test_memory_order.py", "tests/unit/aggregate", "tests/property/test_backup.py")


def main() -> int:
    """Runs the tests, and exits as pytest does."""
    try:
        debian = Debian(FOLDER / "debian", "trixie", ROOT, processor="arm64")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    environment = {"PYTHONPATH": f"{PACKAGES}:{ROOT}", "HOME": "/root"}
    if not (PACKAGES / "ready").exists():
        words = ["pip", "install", "--quiet", "--target", PACKAGES, "--only-binary", ":all:", *WHEELS]
        kind = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", PYTHON]
        subprocess.run([uv_in(FOLDER), *words, *kind], check=True)
        compiling = ["-m", "compileall", "-q", PACKAGES]
        here = python_here(PYTHON)
        if here is None:
            debian.run(["python3", *compiling], environment, stdout=subprocess.DEVNULL)
        else:  # byte code is for any processor, and takes the emulated one half an hour; some files are no Python
            subprocess.run([here, *compiling], stdout=subprocess.DEVNULL, check=False)
        (PACKAGES / "ready").touch()
    words = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "--timeout=3000", *(sys.argv[1:] or CHOSEN)]
    return debian.run(words, environment).returncode


if __name__ == "__main__":
    sys.exit(main())
