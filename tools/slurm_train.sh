#!/usr/bin/env bash
# Trains on a Slurm cluster:
#     GPUS=8 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
# Without GPUs, with TASKS processes:
#     GPUS=0 TASKS=2 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
# CPUS_PER_TASK and SRUN_ARGS (further options of srun) can be set, too.
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
usage='usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]'
run_with_srun "${1:?$usage}" "${2:?$usage}" train.py "${3:?$usage}" --work-dir "${4:?$usage}" --launcher slurm "${@:5}"
