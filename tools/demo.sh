#!/usr/bin/env bash
# Trains a small model on the photograph of coins, tests it on the coins that it has not seen, and draws what it finds.
#
#   bash tools/demo.sh det                        # Mask R-CNN with a small VMamba: make demo
#   bash tools/demo.sh seg                        # UperNet with a small VMamba: make demo-seg
#   bash tools/demo.sh configs/demo/CONFIG.py     # any config of that folder, for instance the control with a ResNet-18
#   bash tools/demo.sh det --cfg-options randomness.seed=1    # more arguments go to tools/train.py
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    det) config=configs/demo/mask-rcnn_vmamba-demo_fpn_coins.py ;;
    seg) config=configs/demo/vmamba-demo_upernet_coins.py ;;
    *.py) config=$1 ;;
    *) echo 'usage: bash tools/demo.sh det|seg|CONFIG.py [arguments of tools/train.py]' >&2; exit 2 ;;
esac
shift

python=.venv/bin/python
work_dir=work_dirs/demo/$(basename "$config" .py)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
say() { printf '\n[demo] %s\n' "$*"; }

say 'data: 12 coins of a photograph to train on, the other 12 to test on'
"$python" tools/dataset_converters/coins.py

say "training from random weights: $config"
rm -rf "$work_dir"
"$python" tools/train.py "$config" --work-dir "$work_dir" "$@"

say 'test on the 12 held-out coins'
"$python" tools/test.py "$config" "$(<"$work_dir/last_checkpoint")" --work-dir "$work_dir/test" \
    --show-dir "$PWD/$work_dir/pictures"

metrics=$(echo "$work_dir"/test/*/*.json)
metric() { LC_ALL=C printf '%.3f' "$(sed -nE "s|.*\"$1\": ([0-9.]+).*|\1|p" "$metrics")"; }
if grep -q mIoU "$metrics"; then
    say "held-out coins: mIoU $(metric mIoU) %"
else
    say "held-out coins: box AP $(metric coco/bbox_mAP), box AP50 $(metric coco/bbox_mAP_50)," \
        "mask AP $(metric coco/segm_mAP), mask AP50 $(metric coco/segm_mAP_50)"
fi
say "pictures with the predictions: $(find "$work_dir/pictures" -name '*.png' -printf '%h\n' | sort -u)"
