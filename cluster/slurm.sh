#!/bin/bash
# One training run on a Slurm cluster, with a Ray cluster of its own on the job's nodes. On a login node:
#
#   python3.11 -m venv ~/streamtrain-env && ~/streamtrain-env/bin/pip install -r requirements.lock . # once
#   sbatch --nodes=2 --gpus-per-node=4 cluster/slurm.sh jobs/mnist.py --device cuda --workers 8 --exchange collective
#   scancel --batch --signal=TERM JOBID     # it writes a checkpoint, ends and queues again; scancel JOBID ends it at once
#
# Everything after the script's name is for `streamtrain train`, with --resume added. All nodes must see the home
# folder, the data set and this folder. Two minutes before the time is up (and when the job is preempted, where the
# cluster's PreemptParameters has send_user_signal) a checkpoint is written and the job queues again, to go on from
# there. STREAMTRAIN_ENV names another environment. Run here against stand-ins of srun and scontrol, on one machine; not on a real Slurm.
#SBATCH --job-name=streamtrain
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "slurm.sh: expected a job file, found nothing; sbatch cluster/slurm.sh jobs/mnist.py" >&2
  exit 2
fi
export PATH="${STREAMTRAIN_ENV:-$HOME/streamtrain-env}/bin:$PATH"
export RAY_worker_niceness=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000))
cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
work=$(mktemp -d "$HOME/.streamtrain-$SLURM_JOB_ID-XXXXXX") # seen by all nodes; the token is for this user's eyes

# jobs of others may share the network, so nobody gets in without this job's token
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$work/token"
(umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

trap 'rm -rf "$work"; kill $(jobs -p) 2>/dev/null || true' EXIT
temporary="/tmp/ray-$SLURM_JOB_ID"
srun --nodes=1 --ntasks=1 --overlap -w "$head" \
  ray start --head --block --port="$port" --num-cpus="$cpus" --temp-dir="$temporary" \
  --include-dashboard=false --disable-usage-stats &
ray=$!
address=$(srun --nodes=1 --ntasks=1 --overlap -w "$head" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS="$address:$port"

until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do
  kill -0 "$ray" 2>/dev/null || { echo "slurm.sh: Ray did not start on $head; see above" >&2; exit 4; }
  sleep 1
done
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --overlap -w "$node" \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="$cpus" --temp-dir="$temporary" &
done

# The driver runs beside this shell, on the first node, so that SIGTERM can be handed to it.
python -m streamtrain train "$@" --resume &
driver=$!
told=
trap 'told=1; trap "" TERM; kill -TERM "$driver" 2>/dev/null || true' TERM
wait "$driver" && code=0 || code=$?
if [ -n "$told" ] && [ "$code" -eq 143 ]; then # the signal ended the wait, not the driver
  wait "$driver" && code=0 || code=$?
fi
if [ "$code" -eq 6 ]; then # stopped, with a checkpoint written
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
