"""Bits and the CPU: the libraries' own switches stand for other machines, each in a real process."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrain.model.machine.portable import NEEDED, cpu_flags, portable_environment
from streamtrain.values import Fingerprint
from tests.support.portable_bits import REFUSAL, has_portable_bits
from tests.support.steps import MODELS

ROOT = Path(__file__).parents[2]
OTHER_CPUS = {
    "none": {},
    "PyTorch's": {"ATEN_CPU_CAPABILITY": "default"},
    "oneDNN's": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN's old": {"DNNL_MAX_CPU_ISA": "SSE41"},
    "MKL's": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "MKL's highest": {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "MKL_CBWR": "AVX512"},
    "MKL's branch": {"MKL_CBWR": "COMPATIBLE"},
    "numpy's": {"NPY_ENABLE_CPU_FEATURES": "X86_V3"},
    "all": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "SSE4_2"},
}
"""Environments that a process may find: each stands for a host of its own."""
SWITCHES = {
    "ATEN_CPU_CAPABILITY": ("default", "PyTorch's CPU capability"),
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "ONEDNN_MAX_CPU_ISA"),
    "MKL_ENABLE_INSTRUCTIONS": ("SSE4_2", "MKL_ENABLE_INSTRUCTIONS"),
    "MKL_CBWR": ("COMPATIBLE", "MKL's branch"),
}
FINGERPRINT = """
import json
from streamtrain.model.machine.device import prepare_process
from streamtrain.model.machine.fingerprint import take_fingerprint
from tests.support.steps import PLAIN, job_of
prepare_process(job_of("mlp", PLAIN))
print(json.dumps(take_fingerprint(job_of("mlp", PLAIN)).to_json()))
"""
pytestmark = pytest.mark.skipif(not cpu_flags().issuperset(NEEDED), reason="needs a CPU with AVX2")


def python(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if name not in portable_environment()}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def ends(environment: dict[str, str], *words: str) -> dict[str, str]:
    """SHA-256 of the parameters of every model after some steps."""
    done = python(environment, "-m", "tests.support.portable_bits", *words)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.keys() == MODELS.keys()
    return found


@functools.cache
def usual() -> Fingerprint:
    return fingerprint({})


def fingerprint(environment: dict[str, str]) -> Fingerprint:
    return Fingerprint.from_json(json.loads(python(environment, "-c", FINGERPRINT).stdout))


def test_portable_bits_are_equal_whatever_cpu_the_switches_pretend_and_others_are_not() -> None:
    if not has_portable_bits():
        for other in OTHER_CPUS.values():
            done = python(other | portable_environment(), "-m", "tests.support.portable_bits", "portable")
            assert done.returncode == 1 and REFUSAL in done.stderr and done.stderr.count("\n") == 1, done.stderr
        return
    portable = [ends(other | portable_environment(), "portable") for other in OTHER_CPUS.values()]
    assert all(found == portable[0] for found in portable[1:]), portable
    # each library's switch by itself changes the bits: what is held above could fail
    usual = ends({})
    for name in ("PyTorch's", "oneDNN's", "MKL's", "MKL's branch"):
        assert ends(OTHER_CPUS[name]) != usual, name


def test_a_process_that_does_not_have_the_switches_is_refused_in_one_line() -> None:
    done = python({"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, "-m", "tests.support.portable_bits", "portable")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("bits=portable, host ") and done.stderr.count("\n") == 1, done.stderr


def test_a_cpu_without_avx2_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamtrain.errors import ConfigError
    from streamtrain.model.machine import portable

    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2 avx f16c\n")
    monkeypatch.setattr(portable, "CPU_FACTS", tmp_path / "cpuinfo")
    with pytest.raises(
        ConfigError, match=r"host .*: expected an x86-64 CPU with AVX2 and FMA, found one without avx2 "
    ):
        portable.check_portable()


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_library_s_switch_shows_in_the_fingerprint_and_in_what_kernels_compute(switch: str) -> None:
    if switch == "MKL_ENABLE_INSTRUCTIONS" and not has_portable_bits():
        pytest.skip("MKL does not follow it on this host")
    value, named = SWITCHES[switch]
    other = fingerprint({switch: value})
    differences = usual().differences(other)
    assert any(each.startswith(named) for each in differences), differences
    assert usual().facts["kernels"] != other.facts["kernels"]


def test_the_fingerprint_is_the_same_every_time() -> None:
    assert not usual().differences(fingerprint({}))
