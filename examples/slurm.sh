#!/usr/bin/env bash
# Train on one or more machines with Slurm. A job that is preempted, or reaches its time limit, saves
# its state, is put back into the queue, and continues there.
#
#     sbatch --nodes 2 --gpus-per-node 8 examples/slurm.sh \
#         i3d_r50_nl5_32x2 --data PATH_TO/kinetics --out runs/i3d
#
# All machines must see data and output at the same paths.
#SBATCH --job-name=nonlocalnet
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -euo pipefail

stopped=false
step=
stop() {  # Slurm sends SIGTERM 300 seconds before the end
  stopped=true
  [ -z "$step" ] || kill -TERM "$step"
}
trap stop TERM

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "${hosts[0]}:29500" \
  -m nonlocalnet train "$@" --resume &
step=$!

status=0
wait "$step" || status=$?
if "$stopped"; then  # the trap ended the first wait
  wait "$step" || status=$?
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
