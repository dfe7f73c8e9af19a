#!/bin/bash

# Parameters
#SBATCH --account=abc
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:1
#SBATCH --exclusive
#SBATCH --gpus-per-node=2
#SBATCH --job-name=asap-eval
#SBATCH --mem=32GB
#SBATCH --nice=100
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=RESULTS/.launch/%j/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --signal=USR2@90
#SBATCH --time=150
#SBATCH --wckey=ours

# setup
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RESULTS/.launch/%j/%j_%t_log.out --cpus-per-task=4 PYTHON -u -m submitit.core._submit RESULTS/.launch/%j
