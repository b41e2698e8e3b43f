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
    exec "$python" "$tools/torchrun.py" \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$1" \
        "$tools/$2" "${@:3}"
}

# run_with_srun PARTITION JOB_NAME TOOL [arguments of the tool]
run_with_srun() {
    local tasks=${GPUS:-8} per_node cpus options=()
    if ((tasks)); then
        per_node=${GPUS_PER_NODE:-$((tasks < 8 ? tasks : 8))}
        options=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
    else
        tasks=${TASKS:-1}
        per_node=$tasks
    fi
    if [[ ! ${CPUS_PER_TASK:-} ]]; then # 5, or what the smallest node of the partition has: a job that asks for more waits for ever
        cpus=$(sinfo --noheader --partition="$1" --format=%c 2>/dev/null | tr -d + | sort -n | head -n 1) || cpus=
        cpus=$((${cpus:-40} / per_node))
        CPUS_PER_TASK=$((cpus > 5 ? 5 : cpus < 1 ? 1 : cpus))
    fi
    # SRUN_ARGS is split into words on purpose.
    # shellcheck disable=SC2086
    exec srun \
        --partition="$1" \
        --job-name="$2" \
        --ntasks="$tasks" \
        "${options[@]}" \
        --cpus-per-task="$CPUS_PER_TASK" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "$python" -u "$tools/$3" "${@:4}"
}
