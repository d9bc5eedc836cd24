"""The demo's bits: the same on every host that can have them, by `bits="portable"`; others are refused."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrain.model.machine.portable import NEEDED, cpu_flags
from streamtrain.packing import PackOptions
from tests.support.datasets import pack_digits
from tests.support.portable_bits import REFUSAL, has_portable_bits

ROOT = Path(__file__).parents[2]
EXPECTED = "c595382abee7f798fae1acc600e8e7fab3e6658af670a161ba25f040b17180ad"
"""Of torch 2.13 and numpy 2.4, after 200 steps of 64 on scikit-learn's digits: MNIST itself is not there in tests."""
OTHER_HOST = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "SSE41"}
PROGRAM = """
import dataclasses, hashlib, sys
from streamtrain.prepare.jobfile import load_job
from streamtrain.prepare.plan import plan
from streamtrain.run.fleet.actors.ray_fleet import RayFleet
from streamtrain.run.fleet.cluster.starting import start_ray
job = load_job("jobs/mnist.py")
start_ray()
data = dataclasses.replace(job.data, url=sys.argv[1])
with RayFleet(plan(dataclasses.replace(job, data=data, bits="portable"))) as fleet:
    assert len(fleet.advance(200)) == 200
    parameters = fleet.snapshot()
print(hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest())
"""


@pytest.mark.skipif(not cpu_flags().issuperset(NEEDED), reason="needs a CPU with AVX2")
@pytest.mark.parametrize("environment", [{}, OTHER_HOST], ids=["as it is", "as another host"])
def test_the_demo_s_first_200_steps_have_these_bits(tmp_path: Path, environment: dict[str, str]) -> None:
    if environment and not has_portable_bits():
        pytest.skip("this processor is refused, as another host or not; the other case holds that")
    pack_digits(tmp_path / "digits", PackOptions(seed=3), wide=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "digits")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if not has_portable_bits():
        assert done.returncode != 0 and f"ConfigError: bits=portable, host {platform.node()}: {REFUSAL}" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == EXPECTED
