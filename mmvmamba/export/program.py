"""Export of a model to a `torch.export` program, for images of any size."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..ops import use_backend

# The shape of the images that a dynamic program is traced with. It avoids the special cases that a trace would
# specialise on: square images, a batch of one, and the size of the position embedding, which needs no interpolation.
TRACED_SHAPE = (2, 3, 160, 192)


def export_program(model: nn.Module, shape: tuple[int, int] | None = None, unrolled: bool = False) -> ExportedProgram:
    """Exports the forward pass of `model` for images (B, 3, H, W) in evaluation mode.

    Each scan is a single mmvmamba operator, so a program written by `torch.export.save` requires mmvmamba to be
    imported where it runs.

    Args:
        model: a model with a single argument; it is switched to evaluation mode.
        shape: (H, W) to export for a single image of this size; None to export for any number of images of any size.
        unrolled: write the scans as PyTorch operators, unrolled into about 2 * sqrt(H * W) steps. This produces many
            more nodes, but requires neither mmvmamba operators nor, in ONNX, `Scan` nodes.

    Raises:
        ValueError: `unrolled` is set without `shape`, or a layer of the model is quantised.
    """
    images = torch.zeros((1, 3, *shape) if shape else TRACED_SHAPE)
    sizes = None if shape else ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    return _export(model, (images,), sizes, unrolled)


def export_detector(model: nn.Module, shape: tuple[int, int] | None = None, unrolled: bool = False) -> ExportedProgram:
    """Exports a model with two arguments for a single image: `images` (1, 3, H, W), and `size` (2,), int64.

    `size` is the height and the width of the image before it was resized to H and W. The other arguments are those of
    `export_program`. A program for any size must be loaded with
    `torch.export.load(path).module(check_guards=False)`, because PyTorch derives too narrow conditions for the size.
    """
    images, size = torch.zeros(1, 3, *(shape or TRACED_SHAPE[2:])), torch.tensor([120, 150])
    sizes = None if shape else ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, None)
    return _export(model, (images, size), sizes, unrolled)


def _export(model: nn.Module, inputs: tuple[Tensor, ...], sizes: Any, unrolled: bool) -> ExportedProgram:
    if unrolled and sizes:
        raise ValueError('unrolled=True writes each step down: give the shape=(H, W) of the image.')
    _reject_quantized(model)
    device = next(model.parameters()).device
    with torch.no_grad(), use_backend('chunked') if unrolled else nullcontext():
        return torch.export.export(model.eval(), tuple(x.to(device) for x in inputs), dynamic_shapes=sizes)


def _reject_quantized(model: nn.Module) -> None:
    for name, module in model.named_modules():
        weight = dict(module.named_parameters(recurse=False)).get('weight')
        if type(module).__module__.startswith('torch.ao.nn.') or type(weight).__module__.startswith('torchao.'):
            raise ValueError(
                f'{name} is quantised: export the float32 model, and quantise the file with '
                'tools/deployment/quantize.py.'
            )
