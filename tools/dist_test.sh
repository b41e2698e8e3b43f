#!/usr/bin/env bash
# Tests with one process per GPU; on a machine without GPUs, so many processes share its cores:
#     bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# Several machines: the same on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set. PYTHON names the interpreter
# (default: the active environment, else .venv of this checkout).
set -euo pipefail

usage='usage: dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]'
config=${1:?$usage}
checkpoint=${2:?$usage}
gpus=${3:?$usage}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python
[[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $tools/../.venv/bin/python ]] && python=$tools/../.venv/bin/python
python=${PYTHON:-$python}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

export MMVMAMBA_LAUNCHER=$$ # a rank whose parent is another one has lost it
exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
