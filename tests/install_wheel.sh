#!/usr/bin/env bash
# Installs the wheel (dist/*.whl, built if it is not there) where nothing of this checkout can be seen, and uses it.
#
#   bash tests/install_wheel.sh                     # with the mm libraries: trains and tests the demo (20 minutes)
#   bash tests/install_wheel.sh --bare python3.12   # with torch, mmengine and einops: one forward pass (4 minutes)
#
# The kernels are checked without network and without the system's OpenMP runtime, where unshare(1) can take both away.
# It needs 6 GB in TMPDIR. TORCH=2.7.1 takes another torch than the pinned one, with --bare.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)

bare=
[[ ${1:-} == --bare ]] && bare=1 && shift
python=${1:-${PYTHON:-python3}}
compgen -G "$checkout/dist/*.whl" >/dev/null || bash "$checkout/tools/build_wheel.sh"
wheel=$(echo "$checkout"/dist/mmvmamba-*.whl)

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
say() { printf '\n[wheel %(%H:%M:%S)T] %s\n' -1 "$*"; }

constraints=$home/constraints.txt
sed "${TORCH:+/^torch/d}" "$checkout/requirements.txt" >constraints.txt
say "$("$python" --version): torch, mmengine and $(basename "$wheel"), with a compiler that always fails"
"$python" -m venv venv
# shellcheck source=/dev/null
source venv/bin/activate
install() { pip install --disable-pip-version-check --quiet --constraint "$constraints" "$@"; }
install --upgrade pip
CC=false CXX=false install --prefer-binary "torch${TORCH:+==$TORCH}" numpy onedl-mmengine "$wheel"

# In an environment without anything of this one, without network, and with nothing in the place of libgomp.so.1.
alone() {
    # shellcheck disable=SC2016  # the inner shell expands it
    local hide='for file in $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p | sed -n "s|.*libgomp.so.1 .*=> ||p"); do mount --bind /dev/null "$file"; done'
    if unshare --map-root-user --mount --net true 2>/dev/null; then
        env -i PATH="$PATH" HOME="$home" unshare --map-root-user --mount --net bash -ec "$hide; \"\$@\"" - "$@"
    else
        echo 'unshare(1) is not allowed here: with network and the OpenMP runtime of the system'
        env -i PATH="$PATH" HOME="$home" "$@"
    fi
}

say 'python -m mmvmamba'
alone python -m mmvmamba
say 'a forward pass'
alone python - <<'PYTHON'
from pathlib import Path

import torch

import mmvmamba
from mmvmamba.ops import native, use_backend

assert native.unavailable_reason() is None
files = {line.split()[-1] for line in Path('/proc/self/maps').read_text().splitlines() if '.so' in line}
runtimes = sorted(file for file in files if 'omp' in Path(file).name)
print('OpenMP:', *runtimes)
assert len(runtimes) == 1 and Path(torch.__file__).parent in Path(runtimes[0]).parents

torch.manual_seed(0)
model, image = mmvmamba.VMamba('tiny').eval(), torch.rand(1, 3, 224, 224)
maps = dict()
for name in ('native', 'chunked'):
    with use_backend(name), torch.no_grad():
        maps[name] = model(image)
print([tuple(map.shape) for map in maps['native']])
for ours, plain in zip(maps['native'], maps['chunked']):
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)

mim = Path(mmvmamba.__file__).parent / '.mim'
index = [line.split()[-1] for line in (mim / 'model-index.yml').read_text().splitlines() if line.strip().startswith('- ')]
assert index and all((mim / file).is_file() for file in index), index
print(f'{len(list((mim / "configs").rglob("*.py")))} configs in {mim}')
PYTHON
[[ $bare ]] && say 'works' && exit

say 'the mm libraries; mmcv is compiled (10 minutes on 2 cores), or comes as a wheel from PIP_FIND_LINKS'
install torch torchvision setuptools wheel ninja psutil packaging
CUDA_VISIBLE_DEVICES='' MAX_JOBS=$(nproc) install --no-cache-dir --no-build-isolation onedl-mmcv opencv-python opencv-python-headless
install onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain ftfy regex scikit-image

say 'the demo, as docs/install.md has it'
cat >demo.sh <<'DEMO'
mim=$(python -c 'import mmvmamba; print(mmvmamba.__path__[0])')/.mim
python $mim/tools/dataset_converters/coins.py
python $mim/tools/train.py $mim/configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py
config=mask-rcnn_vmamba-demo_fpn_coins
python $mim/tools/test.py $mim/configs/demo/$config.py $(cat work_dirs/$config/last_checkpoint)
DEMO
env -i PATH="$PATH" HOME="$home" bash -ex demo.sh 2>&1 | tee demo.log | grep -E '^\+|^training|^validation|Iter\(val|Iter\(test|Error' || true
python - <<'PYTHON'
import re
from pathlib import Path

metrics = dict(re.findall(r'coco/(\w+_mAP_50): ([\d.]+)', Path('demo.log').read_text()))
print(metrics)
assert float(metrics['segm_mAP_50']) > 0.9, 'the model has not learnt to find coins'
PYTHON
say 'works'
