#!/usr/bin/env bash
# The paper recipe on SLURM: `sbatch reproduce/launch/slurm.sh` from the source tree. NOT RUN on a cluster; the start on
# several machines is tested with two launchers on one. Adapt the lines that begin with #SBATCH, nothing else.
#
# The batch script runs on the first machine and drives the stages; each stage that uses GPUs is started on all machines
# by srun. The source tree with its .venv, runs/, data/ and results/ must lie on a file system that all machines share.
#
# A quarter of an hour before the time limit (longer than two steps and a checkpoint) SLURM sends SIGUSR1: the stage ends
# after its step, its checkpoint saved, and the job is queued again. So it is if a stage stood still, ten times at most.
#SBATCH --job-name=migrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

gpus_per_machine=8
processes=$((SLURM_JOB_NUM_NODES * gpus_per_machine))
settings=("launch.processes=$processes")
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  # srun does not take --cpus-per-task from the job since SLURM 22.05: all processes of a machine would share one core.
  starter="srun, --ntasks-per-node=1, --cpus-per-task=$SLURM_CPUS_PER_TASK, --kill-on-bad-exit=1"
  settings+=("launch.machines=$SLURM_JOB_NUM_NODES" "launch.starter=[$starter]")
fi

# In the background, so that the shell can hand the signals on; the exit code tells a stop on request from a failure.
.venv/bin/migrl reproduce --recipe paper "${settings[@]}" &
job=$!
trap 'kill -USR1 "$job"' USR1
trap 'kill -TERM "$job"' TERM
code=0
while true; do
  wait "$job" && code=0 || code=$?
  kill -0 "$job" 2>/dev/null || break
done
case "$code" in
  138) again=true ;; # 128 + SIGUSR1
  75) [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ] && again=true || again=false ;; # stood still: a machine may be broken
  *) again=false ;;
esac
"$again" || exit "$code"
scontrol requeue "$SLURM_JOB_ID"
