#!/usr/bin/env bash
# Creates .venv-classic, the environment of `make test-classic`: the original OpenMMLab libraries in
# tests/requirements_classic.txt and this project, editable. PYTHON=python3.10 selects the interpreter (3.10 or 3.11).
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tests/requirements_classic.txt
venv=.venv-classic
key=$({ pwd; cat "$requirements" pyproject.toml setup.py "$0"; } | sha256sum)
[[ -f $venv/finished && $(<"$venv/finished") == "$key" ]] && exit 0

say() { printf '[classic %(%H:%M:%S)T] %s\n' -1 "$*"; }
fail() { printf 'classic: %s\n' "$*" >&2; exit 1; }

python=
for candidate in ${PYTHON:-python3 python3.11 python3.10}; do
    case $("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) in
        3.10 | 3.11) python=$candidate; break ;;
    esac
done
[[ $python ]] || fail 'no Python 3.10 or 3.11 found, which the original libraries need: set PYTHON=/path/to/python3.11'

install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "$requirements" "$@"; }

if [[ ! -f $venv/created ]]; then
    say '1/4 virtual environment and build tools'
    rm -rf "$venv"
    "$python" -m venv "$venv"
    install --upgrade pip setuptools wheel ninja packaging psutil
    touch "$venv/created"
fi
say '2/4 torch and torchvision (3 GB to download)'
install torch torchvision numpy
if ! "$venv/bin/python" -c 'import mmcv.ops' 2>/dev/null; then
    say '3/4 mmcv with its operators, compiled for the CPU against this torch (10 minutes on 2 cores)'
    install mmengine opencv-python # required to import mmcv
    CUDA_VISIBLE_DEVICES='' MAX_JOBS=${MAX_JOBS:-$(nproc)} install --no-cache-dir --no-deps --no-build-isolation --no-binary mmcv mmcv
    "$venv/bin/python" -c 'import mmcv.ops' || fail 'mmcv was installed but its operators do not import'
fi
say '4/4 mmdet, mmseg, mmpretrain, the tools, and mmvmamba, editable'
install --requirement "$requirements"
install --no-deps --no-build-isolation --editable .
printf '%s\n' "$key" >"$venv/finished"
