"""Export of a model to a `torch.export` program, for images of any size."""

from contextlib import nullcontext

import torch
from torch import nn
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
        ValueError: `unrolled` is set without `shape`.
    """
    if unrolled and shape is None:
        raise ValueError('unrolled=True writes each step down: give the shape=(H, W) of the image.')
    device = next(model.parameters()).device
    images = torch.zeros((1, 3, *shape) if shape else TRACED_SHAPE, device=device)
    sizes = None if shape else ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    with torch.no_grad(), use_backend('chunked') if unrolled else nullcontext():
        return torch.export.export(model.eval(), (images,), dynamic_shapes=sizes)
