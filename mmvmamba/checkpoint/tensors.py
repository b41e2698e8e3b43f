"""Creates tensors as views of the storages of a file, after checking that they are within the storages."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from .budget import Budget
from .errors import UnsafeCheckpoint

MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class Storage:
    """The content of a storage in a file; its elements are bytes if dtype is None."""

    content: torch.UntypedStorage
    dtype: torch.dtype | None


def tensor_v1(budget: Budget, storage: Storage, offset: int, size: tuple, stride: tuple) -> torch.Tensor:
    return tensor_v2(budget, storage, offset, size, stride, False, None)


def tensor_v2(
    budget: Budget,
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    metadata: Any = None,
) -> torch.Tensor:
    if type(storage) is not Storage or storage.dtype is None:
        raise UnsafeCheckpoint('a tensor without a storage')
    return tensor_v3(budget, storage, offset, size, stride, requires_grad, hooks, storage.dtype, metadata)


def tensor_v3(
    budget: Budget,
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Any = None,
) -> torch.Tensor:
    """Creates a view of a storage, without a gradient.

    Args:
        budget: is charged for the expanded tensor, so that a small file cannot become a huge model by expanding one
            value.
        storage: contains the elements.
        offset, size, stride: in elements.
        requires_grad: is not restored, because a checkpoint is data.
        hooks: must be empty, as in every file that PyTorch writes.
        dtype: dtype of the tensor; that of the storage, unless the storage is untyped.
        metadata: flags for conjugate and negative views, which must not be set.

    Raises:
        UnsafeCheckpoint: the tensor is not within its storage, or has hooks or flags.
    """
    if not _is_empty(hooks):
        raise UnsafeCheckpoint('a tensor with hooks')
    if not _is_empty(metadata):
        raise UnsafeCheckpoint('a conjugate or negative view of a tensor')
    if type(storage) is not Storage or type(dtype) is not torch.dtype or storage.dtype not in (None, dtype):
        raise UnsafeCheckpoint('a tensor without a storage')
    _check_shape(offset, size, stride)
    elements = math.prod(size)
    end = offset + (sum((length - 1) * step for length, step in zip(size, stride)) + 1 if elements else 0)
    if end * dtype.itemsize > storage.content.nbytes():
        raise UnsafeCheckpoint('a tensor that reaches beyond its storage')
    budget.spend_tensor(elements * dtype.itemsize)
    empty = torch.empty(0, dtype=dtype, device=storage.content.device)
    return empty.set_(storage.content, offset, tuple(size), stride)


def meta_tensor(budget: Budget, dtype: torch.dtype, size: tuple, stride: tuple, requires_grad: bool) -> torch.Tensor:
    """Creates a tensor on the meta device, without values."""
    _check_shape(0, size, stride)
    if type(dtype) is not torch.dtype:
        raise UnsafeCheckpoint('a tensor without a type')
    return torch.empty_strided(size, stride, dtype=dtype, device='meta')


def parameter(budget: Budget, data: torch.Tensor, requires_grad: bool, hooks: Any, state: Any = None) -> torch.Tensor:
    """Returns the tensor of a parameter. Attributes that trainers set on it are not restored."""
    if type(data) is not torch.Tensor or not _is_empty(hooks):
        raise UnsafeCheckpoint('a parameter with hooks')
    return data


def _is_empty(value: Any) -> bool:
    return value is None or (type(value) in (dict, OrderedDict) and not value)


def _check_shape(offset: int, size: tuple, stride: tuple) -> None:
    if not isinstance(size, tuple) or type(stride) is not tuple or not len(size) == len(stride) <= MOST_DIMENSIONS:
        raise UnsafeCheckpoint('a tensor without a shape')
    if not all(type(number) is int and 0 <= number < 2**60 for number in (offset, *size, *stride)):
        raise UnsafeCheckpoint('a tensor whose shape is not made of integers')
