"""What a scan kernel is compiled for, and the maps on which it is verified."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import self_check
from . import chunked
from .scan_inputs import ScanInputs
from .traversal import CROSS, traversal_codes

RANK = 4


class ScanSignature(NamedTuple):
    """Identifies a compiled kernel.

    Attributes:
        device: the device.
        dtypes: dtypes of the eight tensors of a scan, None for missing tensors.
        states: n.
        is_shared: whether all traversals scan one map.
        dt_softplus: as in `mmvmamba.ops.selective_scan_2d`.
    """

    device: torch.device
    dtypes: tuple[torch.dtype | None, ...]
    states: int
    is_shared: bool
    dt_softplus: bool

    @classmethod
    def of(cls, inputs: ScanInputs) -> 'ScanSignature':
        dtypes = tuple(None if t is None else t.dtype for t in inputs.tensors)
        return cls(inputs.x.device, dtypes, inputs.A.shape[-1], inputs.x.dim() == 4, inputs.dt_softplus)

    @property
    def exact(self) -> tuple[Callable, Callable]:
        return chunked.selective_scan_2d, chunked.selective_scan_2d_backward

    def small_inputs(self) -> Iterator[list[Any]]:
        """Yields the eight tensors of a scan and a gradient of y, always with the same values.

        y and its gradient are in float32, as in the networks.
        """
        for height, width in self_check.SIZES:
            random = torch.Generator('cpu').manual_seed(0)

            def normal(*shape: int) -> Tensor:
                return torch.randn(*shape, generator=random, device='cpu', dtype=torch.float32)  # noqa: B023

            K, d, n = len(CROSS), self_check.channels(self.device), self.states
            maps = (self_check.BATCH, K, height, width)
            dt = normal(*maps, d if self.dtypes[-1] is None else RANK)
            tensors = (
                normal(self_check.BATCH, height, width, d) if self.is_shared else normal(*maps, d),
                dt if self.dt_softplus else dt.abs(),  # without softplus, the steps must be positive
                -normal(K, d, n).abs() - 0.1,
                normal(*maps, n),
                normal(*maps, n),
                normal(K, d),
                normal(K, d).abs() - (1 if self.dt_softplus else 0),
                normal(K, d, RANK).abs() / 4,
            )
            rounded = [t.to(dtype) if dtype else None for t, dtype in zip(tensors, self.dtypes)]
            yield [*rounded, normal(self_check.BATCH, height, width, d)]

    def results(self, forward: Callable, backward: Callable, tensors: list[Any]) -> dict[str, Tensor]:
        *tensors, grad_y = tensors
        inputs = ScanInputs(*tensors, codes=traversal_codes(CROSS), dt_softplus=self.dt_softplus)
        y, grads = forward(inputs, grad_y.dtype), backward(grad_y, inputs)
        return dict(y=y) | {f'd{name}': grad for name, grad in zip(inputs._fields, grads) if grad is not None}

    def __str__(self) -> str:
        return f'the scan on {self_check.device_and_dtypes(self)} and N={self.states}'
