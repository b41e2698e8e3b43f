#!/usr/bin/env bash
# Trains with one process per GPU. On a machine without GPUs, GPUS is the number of CPU processes:
#     bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# For several machines, run the command on each of them with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
usage='usage: dist_train.sh CONFIG GPUS [arguments of train.py]'
run_with_torchrun "${2:?$usage}" train.py "${1:?$usage}" --launcher pytorch "${@:3}"
