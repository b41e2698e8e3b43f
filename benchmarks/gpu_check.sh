#!/usr/bin/env bash
# Tests and benchmarks the CUDA kernels on a machine with a GPU. No network is required, and MMEngine is the only
# OpenMMLab library that is required.
#
#     bash benchmarks/gpu_check.sh [tests] [accuracy] [scan] [conv] [backbone]        (default: all five)
#
# The machine needs Python 3.10 or later, torch 2.4 or later, torchvision, triton and numpy. Download these wheels on
# another machine with the same Python version and operating system (all except PyYAML are pure Python):
#     pip download --no-deps --dest wheels onedl-mmengine addict termcolor pyyaml packaging einops \
#         rich markdown-it-py mdurl pygments pytest iniconfig pluggy
# and install them on the GPU machine:
#     pip install --no-index --no-deps wheels/*.whl
# (mmengine instead of onedl-mmengine also requires yapf, platformdirs and opencv-python-headless.) If mamba-ssm with
# its CUDA kernel, or the official selective_scan_cuda_oflex, is installed, it is measured for comparison. If timm is
# installed (with huggingface_hub and safetensors), Vim is compared with DeiT.
#
# PYTHON sets the interpreter (default: python3), OUT the folder for JSON files and logs (default:
# benchmarks/results/<GPU>). All steps run, even if an earlier one fails; the exit status is 0 only if all succeed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}

steps=("$@")
((${#steps[@]})) || steps=(tests accuracy scan conv backbone)
for step in "${steps[@]}"; do
    [[ $step =~ ^(tests|accuracy|scan|conv|backbone)$ ]] || {
        echo "gpu_check: unknown step '$step'; the steps are tests, accuracy, scan, conv and backbone." >&2
        exit 2
    }
done

gpu=$("$python" - <<'PYTHON'
import importlib.util
import sys

needed = ('torch', 'torchvision', 'triton', 'numpy', 'mmengine', 'addict', 'termcolor', 'yaml', 'packaging', 'einops', 'rich', 'pytest')
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    sys.exit(f'gpu_check: {", ".join(missing)} not found in {sys.executable}; the top of this script lists the wheels.')
import torch

if not torch.cuda.is_available():
    sys.exit(f'gpu_check: PyTorch {torch.__version__} does not find a CUDA device, so there is nothing to check.')
print(torch.cuda.get_device_name().replace(' ', '_').replace('/', '_'))
PYTHON
) || exit 1

out=${OUT:-benchmarks/results/$gpu}
mkdir -p "$out"
failed=()

run() { # run NAME COMMAND...: prints the output and writes it to NAME.log
    local name=$1
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$out/$name.log" || failed+=("$name")
}

time_scan() { # time_scan NAME ARGUMENTS...
    run "$1" "$python" benchmarks/scan.py --device cuda --json "$out/$1.json" "${@:2}"
}

time_backbone() {
    run "$1" "$python" benchmarks/backbone.py --device cuda --json "$out/$1.json" --plot "$out/$1.png" "${@:2}"
}

run machine "$python" -m mmvmamba
run self_check "$python" benchmarks/self_check.py
for step in "${steps[@]}"; do
    case $step in
        tests)
            run tests "$python" -m pytest -q -o addopts= -p no:cacheprovider tests/test_ops/test_triton.py tests/test_ops/test_depthwise_conv.py
            ;;
        accuracy)
            for dtype in float32 float16 bfloat16; do
                run "accuracy_$dtype" "$python" benchmarks/accuracy.py --device cuda --dtype "$dtype" \
                    --json "$out/accuracy_$dtype.json"
            done
            ;;
        scan)
            time_scan scan_float16_batch128 --dtype float16 --batch 128 --cases 56x56x96 VMamba-T
            time_scan scan_float32_batch1
            ;;
        conv) # ours, and PyTorch with and without cuDNN
            run conv_float16_batch128 "$python" benchmarks/conv.py --device cuda --dtype float16 --batch 128 \
                --json "$out/conv_float16_batch128.json"
            run conv_float32_batch1 "$python" benchmarks/conv.py --device cuda --json "$out/conv_float32_batch1.json"
            ;;
        backbone)
            time_backbone backbone_float16_batch128 --dtype float16 --batch 128 --sizes 224 --train-sizes 224
            time_backbone backbone_float16_batch1 --dtype float16 --batch 1 --sizes 512 1024 2048 --train-sizes 512
            if ! "$python" -c 'import timm' 2>/dev/null; then
                echo 'gpu_check: timm is not installed, so Vim is not compared with DeiT.'
            else
                time_backbone vim_float16_batch1 --family vim --dtype float16 --batch 1
                time_backbone vim_fpn_float16_batch1 --family vim --fpn --dtype float16 --batch 1 --train-sizes
            fi
            ;;
    esac
done

echo "Results are in $out."
if ((${#failed[@]})); then
    echo "gpu_check: failed: ${failed[*]}; see the .log files in this folder." >&2
    exit 1
fi
