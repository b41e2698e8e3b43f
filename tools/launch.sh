# shellcheck shell=bash
# Sourced by dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh. PYTHON sets the interpreter (default: the
# active environment, else .venv of this checkout).
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python
[[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $tools/../.venv/bin/python ]] && python=$tools/../.venv/bin/python
python=${PYTHON:-$python}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

# run_with_torchrun GPUS TOOL [arguments of the tool]
run_with_torchrun() {
    export MMVMAMBA_LAUNCHER=$$ # a rank detects that its launcher has died if its parent process differs
    exec "$python" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$1" \
        "$tools/$2" "${@:3}"
}

# run_with_srun PARTITION JOB_NAME TOOL [arguments of the tool]
run_with_srun() {
    local gpus=${GPUS:-8}
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    # SRUN_ARGS is split into words on purpose.
    # shellcheck disable=SC2086
    exec srun \
        --partition="$1" \
        --job-name="$2" \
        --gres="gpu:$gpus_per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$gpus_per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "$python" -u "$tools/$3" "${@:4}"
}
