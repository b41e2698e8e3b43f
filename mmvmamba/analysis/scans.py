"""Scan attention and statistics of the scans of a backbone, computed from the arguments of its scan operators.

The model is not modified: a dispatch mode records each call of the operator `mmvmamba::selective_scan_2d`. The weights
are exact: the operator's own backward computes them from the recorded arguments, without any L x L matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..memory import use_cpu_fast_path
from ..models import Vim
from ..models.token_grid import split_tokens
from ..ops import use_backend
from ..ops.scan.scan_inputs import ScanInputs
from ..ops.scan.traversal import TRAVERSALS, is_reversed, one_map_per_traversal, to_sequence

SAMPLES = 4096  # the maximum number of positions used for statistics


class _Recorder(TorchDispatchMode):
    def __init__(self, wanted: set[int] | None):
        super().__init__()
        self.wanted, self.calls, self.scans = wanted, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mmvmamba.selective_scan_2d.default:
            if self.wanted is None or self.calls in self.wanted:
                self.scans.append(ScanInputs(*args[:10]))
            self.calls += 1
        return func(*args, **(kwargs or {}))


def record_scans(backbone: nn.Module, image: Tensor, blocks: Sequence[int] | None = None) -> list[ScanInputs]:
    """Runs a backbone on an image, without gradients, and records the inputs of its scans.

    Args:
        backbone: a backbone in evaluation mode.
        image: an image (1, 3, H, W).
        blocks: indices of the scans to record, in the order of their calls; all scans by default.
    """
    recorder = _Recorder(None if blocks is None else set(blocks))
    with torch.no_grad(), use_backend('auto'), use_cpu_fast_path(False), recorder:
        backbone(image)
    return recorder.scans


def scan_attention(scan: ScanInputs, row: int, column: int) -> Tensor:
    """Computes the weights with which one output position of a scan attends to every input position.

    For fixed dt, B and C, a scan is linear in x and treats each channel separately: y at the query is the sum of
    weight * x over the positions. The weights are the gradient of y at the query with respect to x, which a single call
    of the operator's backward computes for all channels and traversals. The skip connection D * x is excluded.
    Source: Ali et al. (arXiv 2403.01590), who call these weights the hidden attention of Mamba.

    Args:
        scan: the inputs of a scan of a single image.
        row, column: the query position in the map of the scan.

    Returns:
        (K, H, W, d): signed weights for each traversal. If all traversals share one map, the weights of that map are
        their sum over K.
    """
    x = one_map_per_traversal(scan.x, scan.codes).contiguous()
    grad_y = x.new_zeros(x[:, 0].shape, dtype=torch.promote_types(x.dtype, torch.float32))
    grad_y[:, row, column] = 1
    (grad_x, *_) = torch.ops.mmvmamba.selective_scan_2d_backward(grad_y, *scan._replace(x=x, D=None))
    return grad_x[0]


@dataclass(frozen=True)
class TokenLayout:
    """Converts between positions of the feature map and positions of a scan's map.

    VMamba scans the feature map itself. Vim scans a token sequence, a map of height 1 that may contain class tokens.

    Args:
        height, width: size of the feature map.
        slots: indices of the class tokens in the sequence; None if the scan's map is the feature map.
    """

    height: int
    width: int
    slots: tuple[int, ...] | None

    @classmethod
    def of(cls, backbone: nn.Module, scan: ScanInputs, image_shape: Sequence[int]) -> 'TokenLayout':
        if not isinstance(backbone, Vim):
            return cls(*scan.shape, None)
        stride = backbone.grid.patch_stride
        height, width = ((side - backbone.patch_size) // stride + 1 for side in image_shape)
        return cls(height, width, backbone.grid.class_token_positions(height * width))

    def in_scan(self, row: int, column: int) -> tuple[int, int]:
        """Returns the row and column in the scan's map of a position of the feature map."""
        if self.slots is None:
            return row, column
        index = row * self.width + column
        for slot in self.slots:
            index += index >= slot
        return 0, index

    def to_map(self, values: Tensor) -> Tensor:
        """Converts values (K, H, W, d) of a scan's map to (K, height, width, d), without class tokens."""
        if self.slots is None:
            return values
        return split_tokens(values[:, 0], self.slots)[0].unflatten(1, (self.height, self.width))


def scan_order(traversal: str, height: int, width: int) -> Tensor:
    """Returns the positions (row, column) in the order in which a traversal scans them, (height * width, 2)."""
    code = TRAVERSALS.index(traversal)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    positions = to_sequence(torch.stack([rows, columns], -1)[None], code)[0]
    return positions.flip(0) if is_reversed(code) else positions


@dataclass(frozen=True)
class Statistics:
    """The percentiles 5, 25, 50, 75 and 95 of a scan over positions, channels and states; each (5,).

    Attributes:
        step: the step size softplus(dt + bias), dimensionless.
        memory: -1 / (step * A), in positions. A state decays by the factor exp(step * A) per position, so this is the
            number of positions after which 1 / e of it remains.
    """

    step: np.ndarray
    memory: np.ndarray


def statistics(scan: ScanInputs, traversal: int) -> Statistics:
    """Computes the statistics of the traversal with the given index, from at most `SAMPLES` positions."""
    dt = scan.dt[0, traversal].flatten(0, 1)
    dt = dt[:: -(-len(dt) // SAMPLES)].float()
    if scan.dt_weight is not None:
        dt = dt @ scan.dt_weight[traversal].float().T
    if scan.dt_bias is not None:
        dt = dt + scan.dt_bias[traversal].float()
    step = F.softplus(dt) if scan.dt_softplus else dt
    rate = -step[..., None] * scan.A[traversal].float()  # (positions, d, n)
    return Statistics(_percentiles(step), _percentiles(1 / rate))


def _percentiles(values: Tensor) -> np.ndarray:
    return np.percentile(values.cpu().numpy(), (5, 25, 50, 75, 95))
