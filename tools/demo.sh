#!/usr/bin/env bash
# Trains a small model on a photograph of coins, tests it on held-out coins and draws the predictions; or trains a
# classifier on handwritten digits and tests it on held-out digits by other writers.
#
#   bash tools/demo.sh det                        # Mask R-CNN with a small VMamba: make demo
#   bash tools/demo.sh seg                        # UperNet with a small VMamba: make demo-seg
#   bash tools/demo.sh cls                        # a classifier with a small VMamba: make demo-cls
#   bash tools/demo.sh configs/demo/CONFIG.py     # any config in this folder, for example the ResNet-18 baseline
#   bash tools/demo.sh det --cfg-options randomness.seed=1    # further arguments are passed to tools/train.py
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    det) config=configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py ;;
    seg) config=configs/demo/vmamba-demo_upernet_coins.py ;;
    cls) config=configs/demo/vmamba-demo_digits.py ;;
    *.py) config=$1 ;;
    *) echo 'usage: bash tools/demo.sh det|seg|cls|CONFIG.py [arguments of tools/train.py]' >&2; exit 2 ;;
esac
shift

python=.venv/bin/python
work_dir=work_dirs/demo/$(basename "$config" .py)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
say() { printf '\n[demo] %s\n' "$*"; }

if [[ $config == *digits* ]]; then
    say 'dataset: 1,198 handwritten digits for training, 599 for testing'
    "$python" tools/dataset_converters/digits.py
else
    say 'dataset: 12 coins of a photograph for training, the other 12 for testing'
    "$python" tools/dataset_converters/coins.py
fi

say "training from random weights: $config"
rm -rf "$work_dir"
"$python" tools/train.py "$config" --work-dir "$work_dir" "$@"

say 'testing on the held-out part'
"$python" tools/test.py "$config" "$(<"$work_dir/last_checkpoint")" --work-dir "$work_dir/test" \
    --show-dir "$work_dir/pictures"

metrics=$(echo "$work_dir"/test/*/*.json)
metric() { LC_ALL=C printf '%.3f' "$(sed -nE "s|.*\"$1\": ([0-9.]+).*|\1|p" "$metrics")"; }
if grep -q top1 "$metrics"; then
    say "held-out digits: accuracy $(metric accuracy/top1) %"
elif grep -q mIoU "$metrics"; then
    say "held-out coins: mIoU $(metric mIoU) %"
else
    say "held-out coins: box AP $(metric coco/bbox_mAP), box AP50 $(metric coco/bbox_mAP_50)," \
        "mask AP $(metric coco/segm_mAP), mask AP50 $(metric coco/segm_mAP_50)"
fi
picture=$work_dir/pictures.png
"$python" tools/analysis_tools/picture_sheet.py "$work_dir/pictures" --out "$picture" >/dev/null
say "annotations and predictions: $picture"
