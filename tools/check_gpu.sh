#!/usr/bin/env bash
# Checks, before anything is downloaded, that the GPU driver and the CUDA compiler of this machine fit the torch that
# tools/setup_venv.sh will install:
#
#   bash tools/check_gpu.sh [INDEX]    # INDEX: URL ending in /cpu or /cuNNN; default: the wheels of PyPI
#
# Prints "cuda" or "cpu": what mmcv is to be built for. A problem is one line on stderr; the exit status is 1 if the
# installation could not work. docs/install.md describes the variables.
set -euo pipefail
cd "$(dirname "$0")/.."

note() { printf 'setup: %s\n' "$*" >&2; }
fail() { note "$@"; exit 1; }
locked() { sed -n "s/^$1==\([^ ]*\).*/\1/p" requirements.lock; }

index=${1:-}
torch="torch $(locked torch)"
pytorch=https://download.pytorch.org/whl
other() { printf 'run TORCH_INDEX_URL=%s/%s make setup' "$pytorch" "$1"; }

# --- the CUDA version of the wheels -----------------------------------------------------------------------------------
case ${index%/} in
    '') cuda=$(locked nvidia-cuda-runtime) && cuda=${cuda%.*} ;;
    */cpu) cuda= ;;
    */cu[1-9][0-9][0-9]) cuda=${index%/} cuda=${cuda##*/cu} cuda=${cuda%?}.${cuda: -1} ;;
    *) fail "TORCH_INDEX_URL=$index does not end in /cpu or /cuNNN, for example $pytorch/cu126" ;;
esac
case $cuda in
    '' | 13.*) needed=580 ;; # minimum driver for all of CUDA 13 and 12, see NVIDIA's "CUDA Compatibility"
    12.*) needed=525 ;;
    *) fail "TORCH_INDEX_URL=$index names CUDA $cuda, but only CUDA 12 and 13 are supported: use $pytorch/cu126" ;;
esac

if [[ ! $cuda ]]; then
    [[ ${FORCE_CUDA:-} != 1 ]] || fail "FORCE_CUDA=1 needs wheels with CUDA, but TORCH_INDEX_URL is $index: unset one of them"
    echo cpu
    exit
fi

# --- the GPU and its driver -------------------------------------------------------------------------------------------
gpu='' driver=580
if [[ -z ${CUDA_VISIBLE_DEVICES-all} || ${CUDA_VISIBLE_DEVICES-all} == -1 ]]; then
    absent="hidden by CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-}"
elif ! command -v nvidia-smi >/dev/null; then
    absent='nvidia-smi is not on PATH'
elif found=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1) && [[ $found =~ ^[0-9]+\. ]]; then
    gpu=$found
else
    absent="nvidia-smi reports: $(head -n 1 <<<"$found")"
    # Anything but "No devices were found", which login nodes report, is a defect that would go unnoticed.
    [[ $found == *'No devices'* || ${FORCE_CUDA:-} == 1 ]] ||
        fail "$absent: repair the driver, or hide the GPU with CUDA_VISIBLE_DEVICES= to build for the CPU"
fi

if [[ $gpu ]]; then
    driver=$(head -n 1 <<<"$gpu")
    if ((${driver%%.*} < needed)); then
        ((${driver%%.*} < 525)) && instead=cpu || instead=cu126
        fail "found NVIDIA driver $driver, but $torch for CUDA $cuda needs $needed or later: update the driver, or $(other "$instead")"
    fi
    # Older drivers do not know the field compute_cap. They have been rejected already for CUDA 13.
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -V | tail -n 1) || capability=
    if [[ $cuda == 13.* && $capability =~ ^[0-9]+\.[0-9]$ ]] && ((${capability/./} < 75)); then
        fail "found a GPU of compute capability $capability, but $torch for CUDA $cuda needs 7.5 or later: $(other cu126)"
    fi
elif [[ ${FORCE_CUDA:-} == 1 ]]; then
    [[ ${TORCH_CUDA_ARCH_LIST:-} ]] ||
        fail "FORCE_CUDA=1 without a GPU ($absent) needs TORCH_CUDA_ARCH_LIST, for example '8.0;9.0+PTX' for A100 and H100"
else
    note "no GPU ($absent): mmcv is built for the CPU; for a GPU elsewhere, set FORCE_CUDA=1; for CPU-only wheels (1 GB to download instead of 3), $(other cpu)"
    echo cpu
    exit
fi

# --- nvcc, which compiles the CUDA operators of mmcv ------------------------------------------------------------------
for folder in ${PIP_FIND_LINKS:-}; do
    if compgen -G "${folder#file://}/onedl_mmcv-$(locked onedl-mmcv)-*.whl" >/dev/null; then
        echo cuda # the wheel is used; if it does not fit, tools/setup_venv.sh says so before it compiles
        exit
    fi
done
# PyTorch searches in the same order.
home=${CUDA_HOME:-${CUDA_PATH:-}}
if [[ $home ]]; then
    nvcc=$home/bin/nvcc
else
    nvcc=$(command -v nvcc) || nvcc=/usr/local/cuda/bin/nvcc
fi
toolkit="the CUDA toolkit ${cuda%.*}.x, which compiles mmcv for $torch"
release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || release=
[[ $release ]] ||
    fail "found no nvcc at $nvcc: install $toolkit, or set CUDA_HOME to it; CUDA_VISIBLE_DEVICES= builds for the CPU only"
if [[ ${release%.*} != "${cuda%.*}" ]]; then
    instead="set CUDA_HOME to $toolkit"
    [[ ${release%.*} != 12 ]] || instead+=", or $(other cu126)"
    [[ ${release%.*} != 13 ]] || ((${driver%%.*} < 580)) || instead+=", or $(other cu130)"
    fail "found nvcc $release ($nvcc), but $torch for CUDA $cuda needs ${cuda%.*}.x: $instead"
fi
echo cuda
