#!/usr/bin/env bash
# ray 2.60.0, ray.init("local", include_dashboard=False), its way to a private Ray, waits for two things in vain:
# - a process of the dashboard is started all the same, for the module that reports usage; ray.init has turned that off,
#   as the process's own log says, and waits until it is up: more than a second of imports on a small machine;
# - the raylet connects to its object store while a thread of its own still makes that. Where it comes too early, in one
#   of five starts of this script and in most of a process that has imported much, it sleeps
#   raylet_client_connect_timeout_milliseconds, 1000, although the store is there some milliseconds later. With
#   RAY_raylet_client_connect_timeout_milliseconds=20 in the environment the second is gone.
#
# This fails when no such process is started, or when no raylet of thirty sleeps.
set -euo pipefail
folder=$(mktemp -d /tmp/find.XXXX)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0" psutil
cd "$folder"
"$folder/environment/bin/python" - <<'CODE'
import datetime
import os
import pathlib
import re
import subprocess
import sys

START = """
import psutil, ray
ray.init("local", include_dashboard=False, logging_level="ERROR", num_cpus=1, _temp_dir={folder!r})
print(sum("dashboard.py" in " ".join(each.cmdline()) for each in psutil.Process().children(recursive=True)))
"""


def start(name: str, **settings: str) -> tuple[int, float]:
    """Processes of a dashboard, and seconds from the object store's memory to the server that is made next."""
    folder = pathlib.Path.cwd() / name
    words = [sys.executable, "-c", START.format(folder=str(folder))]
    done = subprocess.run(words, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    (log,) = folder.glob("session_2*/logs/dashboard.log")
    assert "Usage reporting is disabled" in log.read_text(), "the behaviour has changed"
    (log,) = folder.glob("session_2*/logs/raylet.out")
    marks = [re.search(rf"\[\S+ ([\d:,]+) .*{mark}", log.read_text())[1] for mark in ("_mmap_buffer", "ObjectManager serv")]
    memory, server = (datetime.datetime.strptime(mark, "%H:%M:%S,%f") for mark in marks)
    return int(done.stdout), (server - memory).total_seconds()


usual = []
while len(usual) < 30 and (not usual or usual[-1][1] < 0.9):
    usual.append(start(f"a{len(usual)}"))
shorter = [start(f"b{number}", RAY_raylet_client_connect_timeout_milliseconds="20") for number in range(5)]
print("processes of a dashboard that is off:", [count for count, _ in usual + shorter])
print("seconds in which the raylet reaches its object store:", [seconds for _, seconds in usual])
print("with the shorter sleep:", [seconds for _, seconds in shorter])
assert all(count == 1 for count, _ in usual), "the behaviour has changed"
assert max(seconds for _, seconds in usual) > 0.9 > 0.5 > max(seconds for _, seconds in shorter), "it has changed"
CODE
