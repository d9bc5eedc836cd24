"""Functions of a job file that keep what they gave reach the workers, who cannot import that file."""

import fnmatch
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray.cloudpickle

import streamtrain as st
from streamtrain.prepare.jobfile import LOADED

JOB = """
import functools
import streamtrain as st

@functools.cache
def table(width):
    return tuple(range(width))

@functools.lru_cache(maxsize=3, typed=True)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

def mapped(example):
    return {"x": table(4)[example["x"]] + fibonacci(10), "kept": fibonacci.cache_parameters()}

job = st.Job(st.Data("unused", map=mapped), dict)
"""
WORKER = "import pickle, sys; print(pickle.load(sys.stdin.buffer)({'x': 3}))"


@pytest.mark.parametrize("pickler", [cloudpickle, ray.cloudpickle])
def test_they_travel_with_the_file(pickler: Any, tmp_path: Path) -> None:
    (tmp_path / "cached.py").write_text(JOB)
    job = st.load_job(tmp_path / "cached.py")
    assert job.data.map is not None and job.data.map({"x": 3})["x"] == 58
    pickler.register_pickle_by_value(LOADED["streamtrain_job_cached"])  # as RayFleet does
    sent = pickler.dumps(job.data.map)
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, capture_output=True, check=False)
    assert done.stderr == b"" and done.stdout.decode() == "{'x': 58, 'kept': {'maxsize': 3, 'typed': True}}\n"


def test_those_of_others_are_named_as_ever() -> None:
    assert pickle.loads(cloudpickle.dumps(fnmatch._compile_pattern)) is fnmatch._compile_pattern


def test_a_scripts_travel_over_ray_and_stay_plain_for_pickle(tmp_path: Path) -> None:
    """In a script or a notebook they are `__main__`'s."""
    script = """
import functools, pickle, sys
import ray.cloudpickle
from streamtrain.prepare.jobfile import ship_code

@functools.cache
def table(width):
    return tuple(range(width))

def mapped(example):
    return {"x": table(4)[example["x"]]}

ship_code(ray.cloudpickle)
assert pickle.loads(pickle.dumps(table)) is table
sys.stdout.buffer.write(ray.cloudpickle.dumps(mapped))
"""
    (tmp_path / "script.py").write_text(script)
    sent = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, check=True).stdout
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, capture_output=True, check=False)
    assert done.stderr == b"" and done.stdout == b"{'x': 3}\n"
