"""What the scans of a backbone read and have learnt, from the arguments with which they are called.

Nothing is changed in a model: a dispatch mode sees the operator `mmvmamba::selective_scan_2d` of whatever block calls
it, and all maps are computed from its arguments, exactly, by its own backward. No matrix of L x L is ever made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..memory import use_cpu_fast_path
from ..models.position import split_tokens
from ..ops import use_backend
from ..ops.scan_inputs import ScanInputs
from ..ops.traversal import TRAVERSALS, is_reversed, map_of_each, to_sequence

SAMPLES = 4096  # positions at most that statistics are taken of


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
    """Runs a backbone on an image, without gradients, and keeps what its scans were given.

    Args:
        backbone: in evaluation mode.
        image: (1, 3, H, W).
        blocks: which of the scans to keep, counted in the order of their calls; all by default.
    """
    recorder = _Recorder(None if blocks is None else set(blocks))
    with torch.no_grad(), use_backend('auto'), use_cpu_fast_path(False), recorder:
        backbone(image)
    return recorder.scans


def scan_attention(scan: ScanInputs, row: int, column: int) -> Tensor:
    """What the scan's output at one position reads from every position of its input.

    With dt, B and C held as they are, a scan is linear in x, and no channel reads another: y at the query is the sum of
    weight * x over the positions. These weights are the gradient of y at the query with respect to x, which one call of
    the operator's backward gives for all channels and traversals. D, by which the query passes its own x on, is
    left out.
    Source: what Ali et al. (arXiv 2403.01590) call the hidden attention of Mamba.

    Args:
        scan: of one image.
        row, column: the query, in the scan's map.

    Returns:
        (K, H, W, d): signed weights, for each traversal; their sum over K is the weight of a map that all share.
    """
    x = map_of_each(scan.x, scan.codes).contiguous()
    grad_y = x.new_zeros(x[:, 0].shape, dtype=torch.promote_types(x.dtype, torch.float32))
    grad_y[:, row, column] = 1
    (grad_x, *_) = torch.ops.mmvmamba.selective_scan_2d_backward(grad_y, *scan._replace(x=x, D=None))
    return grad_x[0]


@dataclass(frozen=True)
class TokenLayout:
    """Where the positions of the feature map are in a scan's map: in the same place, or among Vim's tokens in a row.

    Args:
        height, width: of the feature map.
        slots: indices of class tokens in the row; None for a scan of the map itself.
    """

    height: int
    width: int
    slots: tuple[int, ...] | None

    @classmethod
    def of(cls, backbone: nn.Module, scan: ScanInputs, image_shape: Sequence[int]) -> 'TokenLayout':
        if not hasattr(backbone, 'grid'):
            return cls(*scan.shape, None)
        stride = backbone.grid.patch_stride
        height, width = ((side - backbone.patch_size) // stride + 1 for side in image_shape)
        return cls(height, width, backbone.grid.slots(height * width))

    def in_scan(self, row: int, column: int) -> tuple[int, int]:
        """The place of a position of the feature map in the scan's map."""
        if self.slots is None:
            return row, column
        index = row * self.width + column
        for slot in self.slots:
            index += index >= slot
        return 0, index

    def to_map(self, values: Tensor) -> Tensor:
        """(K, ...) of a scan's map, channels last, -> (K, height, width, d), without class tokens."""
        if self.slots is None:
            return values
        return split_tokens(values[:, 0], self.slots)[0].unflatten(1, (self.height, self.width))


def scan_order(traversal: str, height: int, width: int) -> Tensor:
    """The positions (row, column) in the order in which a traversal visits them, (height * width, 2)."""
    code = TRAVERSALS.index(traversal)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    positions = to_sequence(torch.stack([rows, columns], -1)[None], code)[0]
    return positions.flip(0) if is_reversed(code) else positions


@dataclass(frozen=True)
class Statistics:
    """Percentiles 5, 25, 50, 75 and 95 of a scan over positions, channels and states; each (5,).

    Attributes:
        step: the time step, softplus(dt + bias), which has no unit.
        memory: -1 / (step * A), in positions: a state decays by exp(step * A) at each, so after these 1 / e is left.
    """

    step: np.ndarray
    memory: np.ndarray


def statistics(scan: ScanInputs, traversal: int) -> Statistics:
    """How fast the states of a scan forget along the traversal of that index, from at most `SAMPLES` positions."""
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
