#!/usr/bin/env bash
# ray 2.60.0, ray.init("local") twice on one machine: the agent of each wants the same port, 52365, and ray.init has no
# setting for it. The later one tries six times to bind it, some 3 s, and goes on without; its raylet, and with it
# ray.init, waits for that. The agent of a Ray whose driver was killed holds the port for up to a minute: so a job that
# is started again at once pays, too.
#
# This fails when the later agent binds at its first try.
set -euo pipefail
folder=$(mktemp -d /tmp/find.XXXX)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0"
cd "$folder"
"$folder/environment/bin/python" - <<'CODE'
import pathlib
import subprocess
import sys
import time

START = """
import time, ray
began = time.monotonic()
context = ray.init("local", include_dashboard=False, logging_level="ERROR", num_cpus=1, _temp_dir={folder!r})
print(f"{{time.monotonic() - began:.1f}}", flush=True)
input()
"""
running, seconds, tries = [], [], []
for number in range(2):
    folder = pathlib.Path.cwd() / str(number)
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(folder=str(folder))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    running.append(process)
    seconds.append(float(process.stdout.readline()))
    time.sleep(5)
    (log,) = folder.glob("session_2*/logs/dashboard_agent.log")
    tries.append(log.read_text().count("Failed to bind to port 52365"))
print(f"ray.init took {seconds[0]} s, and {seconds[1]} s beside it; tries in vain: {tries[0]} and {tries[1]}")
for process in running:
    process.communicate("\n")
assert tries[0] == 0 and tries[1] >= 5, "the behaviour has changed"
CODE
