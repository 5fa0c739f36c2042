#!/usr/bin/env bash
# The paper recipe on SLURM: `sbatch reproduce/launch/slurm.sh` from the source tree. NOT RUN on a cluster; the start on
# several machines is tested with two launchers on one. Adapt the lines that begin with #SBATCH, nothing else.
#
# The batch script runs on the first machine and drives the stages; each stage that uses GPUs is started on all machines
# by srun. The source tree with its .venv, runs/, data/ and results/ must lie on a file system that all machines share.
#
# Five minutes before the time limit SLURM sends SIGUSR1: the stage saves a checkpoint, and the job is queued again.
#SBATCH --job-name=migrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

gpus_per_machine=8
processes=$((SLURM_JOB_NUM_NODES * gpus_per_machine))
settings=("launch.processes=$processes")
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  settings+=("launch.machines=$SLURM_JOB_NUM_NODES" "launch.starter=[srun, --ntasks-per-node=1, --kill-on-bad-exit=1]")
fi

# In the background, so that the shell can hand the signal on; its exit code tells a stop on request from a failure.
.venv/bin/migrl reproduce --recipe paper "${settings[@]}" &
trap 'kill -USR1 %1' USR1
trap 'kill -TERM %1' TERM
code=0
while true; do
  wait %1 && code=0 || code=$?
  kill -0 %1 2>/dev/null || break
done
if [ "$code" -eq 138 ]; then # 128 + SIGUSR1: stopped on request, the checkpoint is saved
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
