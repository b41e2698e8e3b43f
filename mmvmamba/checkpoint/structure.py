"""Checks that an unpickled object consists only of data, and is small enough to be traversed."""

import argparse
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .budget import Budget
from .errors import UnsafeCheckpoint

DEEPEST = 100
CONTAINER = 2  # units of the budget
_LEAVES = {
    *(type(None), bool, int, float, complex, str, bytes, bytearray, set),
    *(torch.Tensor, torch.Size, torch.device, torch.dtype, np.ndarray, HistoryBuffer),
}
_DICTS = {dict, OrderedDict, Counter}


def check_structure(root: Any, budget: Budget) -> None:
    """Checks an object and everything that it contains.

    Optimizers and hooks traverse a checkpoint recursively, and visit a shared object once for each reference. The depth
    is therefore limited, and so is the number of objects, counted with repetition: sixty nested pairs can contain the
    same object 2**60 times.

    Raises:
        UnsafeCheckpoint: something other than data, a container inside itself, too many levels, or too many objects.
    """
    measured: dict[int, tuple[int, int]] = {}
    path = [_Container(root)]
    inside = {id(root)}
    while path:
        container = path[-1]
        for child in container.children:
            if _is_leaf(child):
                container.objects += 1
            elif id(child) in measured:
                container.add(*measured[id(child)])
            elif id(child) in inside:
                raise UnsafeCheckpoint('a structure that contains itself')
            else:
                budget.spend(CONTAINER)
                path.append(_Container(child))
                inside.add(id(child))
                break
        else:
            path.pop()
            inside.remove(id(container.node))
            measured[id(container.node)] = container.objects, container.depth
            if path:
                path[-1].add(container.objects, container.depth)
        if max(len(path), container.depth) > DEEPEST:
            raise UnsafeCheckpoint(f'more than {DEEPEST} nested containers')
        if container.objects > budget.left:
            budget.spend(container.objects)
    budget.spend(container.objects)


def _is_leaf(node: Any) -> bool:
    return type(node) in _LEAVES or isinstance(node, (np.generic, np.dtype))


class _Container:
    """A container on the path from the root to the object that is being checked."""

    def __init__(self, node: Any):
        self.node, self.children = node, _children(node)
        self.objects, self.depth = 1, 1

    def add(self, objects: int, depth: int) -> None:
        self.objects += objects
        self.depth = max(self.depth, depth + 1)


def _children(node: Any) -> Iterator:
    kind = type(node)
    if _is_leaf(node):  # only as the root
        return iter(())
    if kind in (list, tuple):
        return iter(node)
    if kind is argparse.Namespace:
        return iter(vars(node).values())
    if kind in _DICTS:
        metadata = vars(node).get('_metadata') if kind is OrderedDict else None
        return iter([*node.values(), metadata])
    raise UnsafeCheckpoint(f'an object that is not data ({node.name if hasattr(node, "name") else kind.__name__})')
