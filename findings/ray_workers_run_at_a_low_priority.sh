#!/usr/bin/env bash
# ray 2.60.0 starts tasks and actors at niceness 15, where the program that starts them, and all else on the machine,
# has 0. A driver that computes on the same cores, or any other process, leaves them a thirtieth of a core that both want.
#
# RAY_worker_niceness in the environment of whoever starts Ray changes it. This fails when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$folder"
for given in none 0; do
  if [ "$given" = none ]; then unset RAY_worker_niceness; else export RAY_worker_niceness=$given; fi
  "$folder/environment/bin/python" - "$given" <<'CODE'
import os
import sys

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


@ray.remote
class Actor:
    def niceness(self):
        return os.nice(0)


@ray.remote
def niceness():
    return os.nice(0)


found = os.nice(0), ray.get(niceness.remote()), ray.get(Actor.options(num_cpus=0).remote().niceness.remote())
print(f"ray {ray.__version__}, RAY_worker_niceness {sys.argv[1]}: driver, task, actor have", *found)
assert found == (0, *((15, 15) if sys.argv[1] == "none" else (0, 0))), "the behaviour has changed"
CODE
done
