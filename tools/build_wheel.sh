#!/usr/bin/env bash
# Builds dist/mmvmamba-VERSION.tar.gz and, from it, a wheel with the compiled kernels for any Python 3 and any Linux with
# glibc 2.17 or later: make wheel. All files get the date of the commit, so the same commit and compiler produce
# identical archives.
#
#   PYTHON=python3.12 bash tools/build_wheel.sh
set -euo pipefail
cd "$(dirname "$0")/.."

venv=build/wheel
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}

"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/pip" install --disable-pip-version-check --quiet --require-hashes --requirement .ci/requirements_wheel.lock

rm -rf dist build/plain
"$venv/bin/python" -m build --no-isolation --sdist --outdir dist . >build/wheel.log
source=$(echo dist/mmvmamba-*.tar.gz)
mkdir build/plain && tar -xzf "$source" -C build/plain --strip-components 1
"$venv/bin/python" -m build --no-isolation --wheel --outdir build/plain/dist build/plain >>build/wheel.log

plain=$(echo build/plain/dist/*.whl)
contents=$(unzip -l "$plain")
[[ $contents == *native/_scan.so* && $contents == *native/onnxruntime_ops.so* ]] ||
    { tail -n 30 build/wheel.log; echo 'build_wheel: the kernels were not compiled; all output is in build/wheel.log' >&2; exit 1; } >&2
# The kernels link only to the C library. OpenMP is provided by torch, see mmvmamba/ops/native/library.py.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/auditwheel" repair --plat "manylinux_2_17_$(uname -m)" --wheel-dir dist "$plain" >>build/wheel.log 2>&1 ||
    { tail -n 30 build/wheel.log; exit 1; } >&2
ls dist/*
