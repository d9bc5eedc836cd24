#!/usr/bin/env bash
# torchrun of torch 2.13.0 starts all processes again where one was killed, and hands them the store of the processes
# before: with its default rendezvous (c10d, one host, --standalone) it makes one TCPStore and keeps it over restarts, with
# no prefix for each. gloo finds the dead processes' addresses under its keys, connects to them, is refused, and every
# further start ends so too, up to --max-restarts: the job that was to survive a lost process never makes a step again.
#
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 lets rank 0 open a store of its own in each start; then the first restart goes on.
# This fails when either changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/job.py" <<'CODE'
import os
import pathlib
import signal

import torch
import torch.distributed

torch.distributed.init_process_group("gloo")
ones = torch.ones(1)
torch.distributed.all_reduce(ones)
start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), torch.distributed.get_rank()
pathlib.Path(f"connected-{start}-{rank}").touch()
if start == 0 and rank == 1:
    torch.distributed.barrier()
    os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.barrier()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
CODE
for own in 0 1; do
  mkdir "$folder/$own"
  cd "$folder/$own"
  ended=0
  OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=$own timeout 300 "$folder/environment/bin/python" \
    -m torch.distributed.run --standalone --nproc-per-node=4 --max-restarts=3 "$folder/job.py" > told 2>&1 || ended=$?
  first=$(find . -name 'connected-0-*' | wc -l)
  later=$(find . -name 'connected-[123]-*' | wc -l)
  refused=$(grep -c "connectFullMesh failed" told || true)
  echo "torch 2.13.0, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=$own: connected $first at first, $later in restarts;" \
    "refused $refused times; ended with $ended"
  if [ "$own" = 0 ]; then
    [ "$first" = 4 ] && [ "$later" = 0 ] && [ "$refused" -ge 3 ] && [ "$ended" = 1 ]
  else
    [ "$first" = 4 ] && [ "$later" = 4 ] && [ "$refused" = 0 ] && [ "$ended" = 0 ]
  fi
done
