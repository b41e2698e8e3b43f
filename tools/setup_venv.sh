#!/usr/bin/env bash
# Creates .venv, the development environment: all packages in requirements.lock and this project, editable. pip compares
# each downloaded file with the hashes in the lock file.
#
#   bash tools/setup_venv.sh                    # or: make setup
#   PYTHON=python3.12 bash tools/setup_venv.sh  # default: the first supported Python on PATH
#   TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu bash tools/setup_venv.sh  # default: the wheels of PyPI
#
# The script can be run repeatedly. If .venv is complete, it exits at once. If a previous run was interrupted, the pins
# have changed, or a GPU has appeared, it completes .venv. Another Python or index replaces it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup %(%H:%M:%S)T] %s\n' -1 "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- exit early if .venv is up to date --------------------------------------------------------------------------------
inputs=(requirements.lock tests/requirements_peft.lock pyproject.toml tools/setup_venv.sh)
[[ -f setup.py ]] && inputs+=(setup.py)
while IFS= read -r source; do inputs+=("$source"); done < <(find mmvmamba/ops/native mmvmamba/export/native -name '*.[ch]' -o -name '*.inc' 2>/dev/null | sort)
# The path is part of the key because an editable installation points to it.
key=$({ pwd; cat "${inputs[@]}"; } | sha256sum)
# The choice of an index is kept until TORCH_INDEX_URL names another; TORCH_INDEX_URL= returns to PyPI.
index=${TORCH_INDEX_URL-$(cat .venv/created 2>/dev/null || true)}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

have_venv_for() {
    [[ -f .venv/created && $(<.venv/created) == "$index" && (-z $1 || $(version_of "$1") == $(version_of .venv/bin/python)) ]]
}

gpu_is_listed() { [[ $(nvidia-smi -L 2>/dev/null) == *'GPU '* ]]; }
hidden=
[[ ${CUDA_VISIBLE_DEVICES-all} && ${CUDA_VISIBLE_DEVICES-all} != -1 ]] || hidden=1

# .venv/mmcv_target is cuda, cpu, or "cpu by choice" if a GPU was hidden with CUDA_VISIBLE_DEVICES.
needs_cuda_operators() {
    [[ $index != */cpu && $(<.venv/mmcv_target) == cpu* ]] || return
    [[ ${FORCE_CUDA:-} == 1 ]] || { [[ ! $hidden && $(<.venv/mmcv_target) == cpu ]] && gpu_is_listed; }
}

finished() {
    [[ -f .venv/finished && $(<.venv/finished) == "$key" ]] && have_venv_for "${PYTHON:-}" && ! needs_cuda_operators
}

finished && exit 0

# Only one setup runs at a time. Child processes inherit the lock, so the next run also waits for a pip process that
# outlives an interrupted script.
exec 9>>tools/setup_venv.sh
flock --nonblock 9 || { say 'waiting for another setup of this checkout to finish'; flock 9; }
finished && exit 0

# --- check system requirements ----------------------------------------------------------------------------------------
missing=() apt=() dnf=()
need() { missing+=("$1"); apt+=("$2"); dnf+=("$3"); }

python=
if [[ -n ${PYTHON:-} ]]; then
    candidates=("$PYTHON")
else
    candidates=(python3 python3.12 python3.11 python3.10)
    have_venv_for '' && candidates=(.venv/bin/python "${candidates[@]}")
fi
for candidate in "${candidates[@]}"; do
    case $(version_of "$candidate") in 3.10 | 3.11 | 3.12) python=$candidate; break ;; esac
done
if [[ -z $python ]]; then
    tried=
    for candidate in "${candidates[@]}"; do tried+=", $candidate: $(version_of "$candidate" || echo none)"; done
    need "Python 3.10, 3.11 or 3.12 (found ${tried#, }); set PYTHON=/path/to/python3.12 if it is not on PATH" \
        'python3 python3-venv python3-dev' 'python3.12 python3.12-devel'
else
    name=python$(version_of "$python")
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need "the venv module of $python" "$name-venv" "$name"
    [[ -f $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
        need "Python.h, the C headers of $python" "$name-dev" "$name-devel"
fi
command -v "${CXX:-g++}" >/dev/null || need "${CXX:-g++}, a C++ compiler" g++ gcc-c++
libraries=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p)
[[ $libraries == *libGL.so.1* ]] || need 'libGL.so.1, used by OpenCV' libgl1 libglvnd-glx
[[ $libraries == *libgthread-2.0.so.0* ]] || need 'libgthread-2.0.so.0, used by OpenCV' libglib2.0-0 glib2

if ((${#missing[@]})); then
    {
        echo 'setup: missing on this machine:'
        printf '  - %s\n' "${missing[@]}"
        echo 'Install the missing packages and run the setup again:'
        echo "  Debian, Ubuntu:  sudo apt-get install ${apt[*]}"
        echo "  Fedora:          sudo dnf install ${dnf[*]}"
    } >&2
    exit 1
fi

[[ ! -e .venv || -f .venv/creating || -f .venv/created ]] ||
    fail '.venv was not created by this script; move it and run the setup again'

target=$(bash tools/check_gpu.sh "$index") # cuda or cpu

# --- the environment --------------------------------------------------------------------------------------------------
run() { .venv/bin/python "$@"; }
quiet=()
[[ -t 1 ]] || quiet=(-qq) # progress bars for people, errors only for log files
install() { run -m pip install --disable-pip-version-check "${quiet[@]}" "$@"; }

# Writes the lock file entries of the packages NAME... to .venv/FILE; with "but", those of all other packages.
entries() { # FILE [but] NAME...
    local file=.venv/$1 but=0
    shift
    [[ $1 == but ]] && but=1 && shift
    awk -v names=" $* " -v but="$but" '
        /^[^ #]/ { split($1, name, "=="); listed = index(names, " " name[1] " ") > 0 }
        listed != but' requirements.lock >"$file"
    printf '%s' "$file"
}

# The lock file lists every package, so pip does not resolve dependencies. Source distributions are built with the build
# tools pinned in the lock file; an isolated build would download others without checking hashes.
install_locked() { install --require-hashes --no-deps --no-build-isolation "$@"; }

# Packages of another index have hashes that the lock file cannot know. Only torch and what it alone depends on come from
# there. The local version (+cpu, +cu126) makes sure that torch and torchvision come from the same index.
from_index=()
size=6 download=3
[[ $index != */cpu ]] || { size=3 download=1; }
if [[ $index ]]; then
    mapfile -t from_index < <(grep -oE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' requirements.lock | tr -d =)
    label=${index%/}
    label=+${label##*/}
fi
pin() { sed -n "s/^\($1==[^ ]*\).*/\1/p" requirements.lock; }

started=$SECONDS
say "creating .venv ($size GB) with $python, Python $(version_of "$python"); an interrupted setup continues at the next run"

if ! have_venv_for "$python"; then
    say '1/5 virtual environment and build tools (1 minute)'
    rm -rf .venv
    mkdir .venv && touch .venv/creating
    "$python" -m venv .venv
    install_locked --requirement "$(entries build_tools.txt pip setuptools wheel ninja packaging psutil)"
    printf '%s' "$index" >.venv/creating
    mv .venv/creating .venv/created
fi

# pip writes RECORD last. Without it, a package is only partly installed, although pip considers it installed.
for info in .venv/lib/python*/site-packages/*.dist-info; do
    [[ -f $info/RECORD ]] || rm -rf "$info"
done

# These packages have no wheels, and building some of them requires torch.
source_only=(grad-cam onedl-mmcv onedl-mmdetection onedl-mmpretrain onedl-mmsegmentation)
say "2/5 torch and all other wheels ($download GB to download; 3 minutes with a fast connection)"
install_locked --requirement "$(entries wheels.txt but "${source_only[@]}" "${from_index[@]}")"
[[ ! $index ]] || install --index-url "$index" "$(pin torch)$label" "$(pin torchvision)$label"

mmcv=$(pin onedl-mmcv)
have_mmcv() { # the pinned version imports with this torch and, if needed, has operators for its CUDA
    [[ $(run -m pip freeze) == *"$mmcv"* ]] && run - "$target" 2>/dev/null <<'PYTHON'
import sys

import torch
from mmcv.ops import get_compiling_cuda_version

built, runs = (str(version).partition('.')[0] for version in (get_compiling_cuda_version(), torch.version.cuda))
open('.venv/mmcv_target', 'w').write('cuda' if built.isdecimal() else 'cpu')
sys.exit(sys.argv[1] == 'cuda' and built != runs)
PYTHON
}
pip_mmcv() { # writes all output to .venv/mmcv.log and prints every tenth compiled file
    run -m pip "$@" --disable-pip-version-check --verbose --no-deps \
        &> >(tee .venv/mmcv.log | grep --line-buffered -o '\[[0-9]*0/[0-9]*\]')
}
install_mmcv() { pip_mmcv install --no-index --only-binary onedl-mmcv --force-reinstall "$mmcv"; }
compile_mmcv() { # without cache: pip would reuse a wheel built for a different torch or without operators
    rm -rf .venv/wheels
    pip_mmcv wheel --no-cache-dir --no-binary onedl-mmcv --no-build-isolation --require-hashes --wheel-dir .venv/wheels \
        --requirement "$(entries mmcv.txt onedl-mmcv)" &&
        PIP_FIND_LINKS=.venv/wheels install_mmcv
}
if ! have_mmcv; then
    say '3/5 mmcv with its operators: a wheel from PIP_FIND_LINKS, or compiled against this torch (10 minutes on 2 cores)'
    # The lock file cannot know the hash of a wheel that was compiled elsewhere. --no-index: it comes from the folders that
    # the user names, never from a registry.
    if install_mmcv && ! have_mmcv; then
        say '    the wheel in PIP_FIND_LINKS does not match this torch'
    fi
fi
if ! have_mmcv; then
    if [[ $target == cuda ]]; then
        PIP_FIND_LINKS='' bash tools/check_gpu.sh "$index" >/dev/null # without a usable wheel, nvcc is needed
    else
        export CUDA_VISIBLE_DEVICES=
    fi
    say '    compiling mmcv'
    MAX_JOBS=${MAX_JOBS:-$(nproc)} compile_mmcv ||
        { tail -n 40 .venv/mmcv.log >&2; fail 'building mmcv failed; the full output is in .venv/mmcv.log'; }
    have_mmcv ||
        fail "mmcv was compiled, but has no operators for this torch on the target \"$target\"; see .venv/mmcv.log"
fi

say '4/5 mmdet, mmseg and mmpretrain (1 minute)'
install_locked --requirement "$(entries all.txt but "${from_index[@]}")"
rm -rf .venv/peft
install_locked --target .venv/peft --requirement tests/requirements_peft.lock

say '5/5 mmvmamba, editable, and a check that everything imports (1 minute)'
install --no-deps --no-build-isolation --editable .
run -m pip check --disable-pip-version-check || fail 'the installed packages are not compatible; remove .venv and run the setup again'
run - <<'PYTHON' || fail 'the environment was installed but does not work; remove .venv and run the setup again'
import mmcv.ops
import mmdet.models
import mmpretrain.models
import mmseg.models
import torch
import torchvision

boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
assert mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1].tolist() == [0]
PYTHON

if [[ $hidden && $(<.venv/mmcv_target) == cpu ]] && gpu_is_listed; then
    echo 'cpu by choice' >.venv/mmcv_target
fi
printf '%s\n' "$key" >.venv/finished
say "done in $(((SECONDS - started + 59) / 60)) minutes"
