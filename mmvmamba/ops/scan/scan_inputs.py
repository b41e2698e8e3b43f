"""The arguments of a scan, as the operator passes them to a backend."""

from typing import NamedTuple

import torch
from torch import Tensor

from .traversal import TRAVERSALS


class ScanInputs(NamedTuple):
    """The arguments of one scan, with shapes as in `mmvmamba.ops.selective_scan_2d`.

    Attributes:
        codes: the codes of the traversals, see `traversal.py`.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    dt_weight: Tensor | None
    codes: list[int]
    dt_softplus: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The first eight fields."""
        return self[:8]

    @property
    def traversals(self) -> tuple[str, ...]:
        return tuple(TRAVERSALS[code] for code in self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map. A sequence has height 1."""
        height, width = self.x.shape[-3:-1]
        return height, width

    @property
    def dtypes(self) -> set[torch.dtype]:
        return {t.dtype for t in self.tensors if t is not None}

    def in_state_dtype(self) -> 'ScanInputs':
        """Converts all tensors to the dtype of the state: float64 if any of them is float64, else float32."""
        dtype = torch.float64 if torch.float64 in self.dtypes else torch.float32
        x, dt, A, B, C = (t.to(dtype) for t in self[:5])
        D, dt_bias, dt_weight = (t if t is None else t.to(dtype) for t in self[5:8])
        return ScanInputs(x, dt, A, B, C, D, dt_bias, dt_weight, self.codes, self.dt_softplus)
