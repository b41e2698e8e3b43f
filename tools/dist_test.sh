#!/usr/bin/env bash
# Tests with one process per GPU. On a machine without GPUs, GPUS is the number of CPU processes:
#     bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# For several machines, run the command on each of them with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# shellcheck disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
usage='usage: dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]'
run_with_torchrun "${3:?$usage}" test.py "${1:?$usage}" "${2:?$usage}" --launcher pytorch "${@:4}"
