"""From a model to a program of PyTorch's operators, for images of any size."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..ops import use_backend

# Of the images that a dynamic program is traced with: no square, no batch of one, and no size for which a model takes a
# shorter way, as for that of its position embedding.
TRACED_SHAPE = (2, 3, 160, 192)


def export_program(model: nn.Module, shape: tuple[int, int] | None = None, unrolled: bool = False) -> ExportedProgram:
    """What `model` computes from images (B, 3, H, W) in evaluation mode.

    A scan is one operator of mmvmamba's, so that what `torch.export.save` writes runs where mmvmamba is imported.

    Args:
        model: of one argument; it is put into evaluation mode.
        shape: (H, W), for one image of this size; None, for any number of images of any size.
        unrolled: scan in PyTorch's own operators, in about 2 sqrt(H W) steps of which each is written down. That takes
            many more nodes, but no operator of ours and, in ONNX, no `Scan` node.

    Raises:
        ValueError: `unrolled` without `shape`.
    """
    if unrolled and shape is None:
        raise ValueError('unrolled=True writes each step down: give the shape=(H, W) of the image.')
    device = next(model.parameters()).device
    images = torch.zeros((1, 3, *shape) if shape else TRACED_SHAPE, device=device)
    sizes = None if shape else ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    with torch.no_grad(), use_backend('blocked') if unrolled else nullcontext():
        return torch.export.export(model.eval(), (images,), dynamic_shapes=sizes)
