#!/usr/bin/env bash
# Classify many videos with a job array of Slurm. Each task computes a part of the videos, on a GPU of
# its own. A task that is preempted, or reaches its time limit, is put back into the queue, and
# continues there.
#
#     sbatch --array 1-16 examples/slurm_predict.sh 16 classes PATH_TO/videos --weights W
#
# The first words are the number of parts and a folder; the others go to `nonlocalnet predict`. Task
# 3 writes classes/3-of-16.csv. Submitted again, the job computes what is missing; --array 3,7 does
# so for two tasks. All tasks must see videos and output at the same paths.
#SBATCH --job-name=nonlocalnet-predict
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
set -euo pipefail

parts=$1 folder=$2
shift 2

stopped=false
step=
stop() {  # Slurm sends SIGTERM 60 seconds before the end
  stopped=true
  [ -z "$step" ] || kill -TERM "$step"
}
trap stop TERM

srun nonlocalnet predict "$@" \
  --part "$SLURM_ARRAY_TASK_ID/$parts" --out "$folder/$SLURM_ARRAY_TASK_ID-of-$parts.csv" &
step=$!

status=0
wait "$step" || status=$?
if "$stopped"; then  # the trap ended the first wait
  wait "$step" || status=$?
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
