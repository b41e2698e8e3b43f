#!/usr/bin/env bash
# Makes .venv, the development environment: everything in requirements.lock and this project, editable. pip compares each
# file that it downloads with the hashes in the lock file.
#
#   bash tools/setup_venv.sh                    # or: make setup
#   PYTHON=python3.12 bash tools/setup_venv.sh  # with another Python than the first fitting one on PATH
#
# It can be called any number of times. A finished .venv costs nothing; one that was interrupted, or made from other
# pins, is completed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup %(%H:%M:%S)T] %s\n' -1 "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- is there anything to do? -----------------------------------------------------------------------------------------
inputs=(requirements.lock tests/requirements_peft.lock pyproject.toml tools/setup_venv.sh)
[[ -f setup.py ]] && inputs+=(setup.py)
while IFS= read -r source; do inputs+=("$source"); done < <(find mmvmamba/ops/native -name '*.[ch]' -o -name '*.inc' 2>/dev/null | sort)
# The path is part of the key because an editable installation points to it.
key=$({ pwd; cat "${inputs[@]}"; } | sha256sum)

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

have_venv_for() { [[ -f .venv/created && (-z $1 || $(version_of "$1") == $(version_of .venv/bin/python)) ]]; }

finished() { [[ -f .venv/finished && $(<.venv/finished) == "$key" ]] && have_venv_for "${PYTHON:-}"; }

finished && exit 0

# One set-up at a time. Children inherit the lock: a pip that outlives an interrupted script is waited for.
exec 9>>tools/setup_venv.sh
flock --nonblock 9 || { say 'another set-up of this checkout is still running: waiting for it'; flock 9; }
finished && exit 0

# --- what the machine must have ---------------------------------------------------------------------------------------
missing=() apt=() dnf=()
need() { missing+=("$1"); apt+=("$2"); dnf+=("$3"); }

python=
if [[ -n ${PYTHON:-} ]]; then
    candidates=("$PYTHON")
else
    candidates=(python3 python3.12 python3.11 python3.10)
    [[ -f .venv/created ]] && candidates=(.venv/bin/python "${candidates[@]}")
fi
for candidate in "${candidates[@]}"; do
    case $(version_of "$candidate") in 3.10 | 3.11 | 3.12) python=$candidate; break ;; esac
done
if [[ -z $python ]]; then
    tried=
    for candidate in "${candidates[@]}"; do tried+=", $candidate: $(version_of "$candidate" || echo none)"; done
    need "Python 3.10, 3.11 or 3.12 (found ${tried#, }); PYTHON=/path/to/python3.12 names one off PATH" \
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
        echo 'setup: this machine lacks'
        printf '  - %s\n' "${missing[@]}"
        echo 'Install it and call again:'
        echo "  Debian, Ubuntu:  sudo apt-get install ${apt[*]}"
        echo "  Fedora:          sudo dnf install ${dnf[*]}"
    } >&2
    exit 1
fi

[[ ! -e .venv || -f .venv/creating || -f .venv/created ]] ||
    fail '.venv was made by something else; move it away and call again'

# --- the environment --------------------------------------------------------------------------------------------------
run() { .venv/bin/python "$@"; }
quiet=()
[[ -t 1 ]] || quiet=(-qq) # progress bars for people, errors only for log files
install() { run -m pip install --disable-pip-version-check "${quiet[@]}" "$@"; }

# Writes the entries of the lock file for the packages NAME..., or with "but" for all others, to .venv/FILE.
entries() { # FILE [but] NAME...
    local file=.venv/$1 but=0
    shift
    [[ $1 == but ]] && but=1 && shift
    awk -v names=" $* " -v but="$but" '
        /^[^ #]/ { split($1, name, "=="); listed = index(names, " " name[1] " ") > 0 }
        listed != but' requirements.lock >"$file"
    printf '%s' "$file"
}

# The lock file lists every package, so pip resolves nothing. Source distributions are built with the build tools that the
# lock file pins; an isolated build would download others without hashes.
install_locked() { install --require-hashes --no-deps --no-build-isolation "$@"; }

started=$SECONDS
say "making .venv (6 GB) with $python, Python $(version_of "$python"); an interrupted set-up goes on at the next call"

if ! have_venv_for "$python"; then
    say '1/5 virtual environment and build tools (1 minute)'
    rm -rf .venv
    mkdir .venv && touch .venv/creating
    "$python" -m venv .venv
    install_locked --requirement "$(entries build_tools.txt pip setuptools wheel ninja packaging psutil)"
    mv .venv/creating .venv/created
fi

# pip writes a package's RECORD last: without one, the package is half there although pip takes it for installed.
for info in .venv/lib/python*/site-packages/*.dist-info; do
    [[ -f $info/RECORD ]] || rm -rf "$info"
done

# These have no wheels, and some of them import torch to build.
source_only=(grad-cam onedl-mmcv onedl-mmdetection onedl-mmpretrain onedl-mmsegmentation)
say '2/5 torch and all other wheels (3 GB to download; 3 minutes on a fast line)'
install_locked --requirement "$(entries wheels.txt but "${source_only[@]}")"

mmcv=$(grep -o '^onedl-mmcv==[^ ]*' requirements.lock)
have_mmcv() { [[ $(run -m pip freeze) == *"$mmcv"* ]] && run -c 'import mmcv.ops' 2>/dev/null; }
pip_mmcv() { # all output goes to .venv/mmcv.log; every tenth file that is compiled is printed
    run -m pip "$@" --disable-pip-version-check --verbose --no-deps \
        &> >(tee .venv/mmcv.log | grep --line-buffered -o '\[[0-9]*0/[0-9]*\]')
}
install_mmcv() { pip_mmcv install --no-index --only-binary onedl-mmcv --force-reinstall "$mmcv"; }
compile_mmcv() { # no cache: pip would keep one wheel for every torch, even one built without operators
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
        say '    the wheel from PIP_FIND_LINKS does not fit this torch'
    fi
fi
if ! have_mmcv; then
    if run -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' &&
        ! command -v nvcc >/dev/null && [[ ! -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]]; then
        say '    note: there is a GPU but no nvcc, so mmcv is compiled for the CPU only. To train detectors on the GPU,'
        say "    install the CUDA $(run -c 'import torch; print(torch.version.cuda)') toolkit, remove .venv and call again."
        export CUDA_VISIBLE_DEVICES=
    fi
    say '    compiling mmcv'
    MAX_JOBS=${MAX_JOBS:-$(nproc)} compile_mmcv ||
        { tail -n 40 .venv/mmcv.log >&2; fail 'mmcv was not built; all of its output is in .venv/mmcv.log'; }
    unset CUDA_VISIBLE_DEVICES
fi

say '4/5 mmdet, mmseg and mmpretrain (1 minute)'
install_locked --requirement requirements.lock
rm -rf .venv/peft
install_locked --target .venv/peft --requirement tests/requirements_peft.lock

say '5/5 mmvmamba, editable, and a check that everything imports (1 minute)'
install --no-deps --no-build-isolation --editable .
run -m pip check --disable-pip-version-check || fail 'the installed packages do not fit together; remove .venv and call again'
run - <<'PYTHON' || fail 'the environment was installed but does not work; remove .venv and call again'
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

printf '%s\n' "$key" >.venv/finished
say "done in $(((SECONDS - started + 59) / 60)) minutes"
