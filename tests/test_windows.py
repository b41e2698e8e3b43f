"""Tests which parts of a test image a segmentor sees: sliding windows or the whole image, as in its protocol."""

import re
from functools import partial
from unittest.mock import patch

import pytest
import torch
from mmengine.registry import MODELS

from .test_configs import NAMES, segmentation_sample

CONFIGS = [name for name in NAMES if re.match(r'(vim|vmamba)/.*(upernet|segmenter)', name)]
CLASSES = 3

# Top left corners of the windows by size of the resized image. The official code of Vim cuts the unpadded image into
# windows of 512 x 512 with a stride of 341 pixels; the last one ends at the border.
WINDOWS = {
    (512, 512): [(0, 0)],
    (512, 683): [(0, 0), (0, 171)],
    (683, 512): [(0, 0), (171, 0)],
    (512, 853): [(0, 0), (0, 341)],
    (512, 1000): [(0, 0), (0, 341), (0, 488)],
}
# Stride of 480 pixels, as in mmseg's configs of Segmenter.
SEGMENTER_WINDOWS = WINDOWS | {(512, 1000): [(0, 0), (0, 480), (0, 488)]}
# The official code of Vim rejects these sizes, because its position embedding has one size.
SMALL = {(333, 500): [(0, 0)], (400, 683): [(0, 0), (0, 171)]}


def build(cfg):
    """Builds the segmentor without weights; its preprocessor pads as configured and does not normalise."""
    cfg.model.decode_head.num_classes = CLASSES
    with torch.device('meta'), patch('torch.linspace', partial(torch.linspace, device='cpu')):
        model = MODELS.build(cfg.model).eval()
    model.data_preprocessor = MODELS.build(
        cfg.model.data_preprocessor | dict(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False)
    )
    return model


def seen(model, shape):
    """Returns (top, left, height, width) of each network input for an image of this shape, in order."""
    calls = []

    def encode_decode(inputs, metas):
        calls.append((*inputs[0, :2, 0, 0].int().tolist(), *inputs.shape[2:]))
        return inputs.new_zeros(1, CLASSES, *inputs.shape[2:])

    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in shape), indexing='ij')
    batch = dict(inputs=[torch.stack([rows, columns, rows])], data_samples=[segmentation_sample(CLASSES, shape)])
    with patch.object(model, 'encode_decode', encode_decode):
        (result,) = model.test_step(batch)
    assert result.pred_sem_seg.shape == shape
    return calls


@pytest.mark.parametrize('name', CONFIGS)
def test_network_inputs_match_the_test_protocol(name, load):
    model = build(load(name))
    for shape, corners in (SEGMENTER_WINDOWS if 'segmenter' in name else WINDOWS).items():
        if model.test_cfg.mode == 'slide':
            expected = [(*corner, 512, 512) for corner in corners]
        elif re.match('vim/(vim|deit)', name):  # the paper tests whole images; here they are padded to whole patches
            expected = [(0, 0, *((side + 31) // 32 * 32 for side in shape))]
        else:
            expected = [(0, 0, *shape)]
        assert seen(model, shape) == expected


def test_only_released_vim_configs_and_segmenter_use_windows(load):
    slide = [name for name in CONFIGS if load(name).model.test_cfg.mode == 'slide']
    assert slide == [
        'vim/vim-s_upernet_4xb8-60k_ade20k-512x512.py',
        'vim/vim-t_segmenter_4xb4-160k_ade20k-512x512.py',
        'vim/vim-t_upernet_4xb8-60k_ade20k-512x512.py',
    ]
    for name in slide:
        model = build(load(name))
        for shape, corners in SMALL.items():  # padded to the window size
            assert seen(model, shape) == [(*corner, 512, 512) for corner in corners]
