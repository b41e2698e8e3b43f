"""Prints the memory that one block of each family saves for the backward pass, by source line, and the ideal.

    python benchmarks/kept_for_backward.py [--dtype bfloat16]

The unit is a float32 map of C channels, the width of the block's input and output. The script counts the distinct
storages that autograd still holds after a forward pass in training, excluding parameters.
"""

import argparse
import linecache
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import measure
import torch
from torch import Tensor, nn

from mmvmamba.models.bimamba import BiMamba
from mmvmamba.models.ss2d import SS2D
from mmvmamba.models.vim import VimBlock
from mmvmamba.models.vmamba import VSSBlock

SIDE = 28  # height and width of the map


@dataclass(frozen=True)
class Block:
    """A block and its ideal: the maps without which the backward pass must repeat the scan or a large matrix product.

    Attributes:
        make: builds the block for the given number of channels.
        channels: C.
        call: runs the block on a map (1, SIDE, SIDE, C).
        ideal: the size of each of these maps, in maps of C channels.
    """

    make: Callable[[int], nn.Module]
    channels: int
    call: Callable[[nn.Module, Tensor], object]
    ideal: dict[str, float]


BLOCKS = {
    'VSSBlock of VMamba-T': Block(
        lambda channels: VSSBlock(channels, SS2D(channels, ssm_ratio=1.0), mlp_ratio=4.0, drop_path=0.0),
        96,
        lambda block, x: block(x),
        {
            'the input': 1,
            "the convolution's input": 1,
            'dt, B and C': 4 * (6 + 2) / 96,
            'the scan': 1,
            "the MLP's input": 1,
            'fc1': 4,
        },
    ),
    'VimBlock of Vim-Ti': Block(
        lambda channels: VimBlock(channels, BiMamba(channels), drop_path=0.0),
        192,
        lambda block, x: block(x.flatten(1, 2), False),
        {'the input': 1, "the convolutions' input": 2, 'dt, B and C': 2 * (12 + 32) / 192, 'the scan': 2},
    ),
}


@dataclass(frozen=True)
class Kept:
    """A storage saved by autograd: the source line in the model that saved it, shape, dtype and size in maps of C."""

    line: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    maps: float


class _Saved:
    """Replaces a saved tensor in autograd. It is freed when the graph releases the tensor."""

    def __init__(self, tensor: Tensor):
        self.tensor, self.line = tensor, _line()


def kept_by(block: Block, dtype: torch.dtype = torch.float32) -> list[Kept]:
    """Returns the storages saved by one forward pass, largest first; a 16-bit `dtype` is used with autocast."""
    torch.manual_seed(0)
    module, x = block.make(block.channels).train(), torch.randn(1, SIDE, SIDE, block.channels, requires_grad=True)
    unit = x.nbytes
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved = weakref.WeakSet()

    def save(tensor: Tensor) -> _Saved:
        saved.add(record := _Saved(tensor))
        return record

    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda record: record.tensor),
        torch.autocast('cpu', dtype, enabled=dtype != torch.float32),
    ):
        out = block.call(module, x)
    kept = {record.tensor.untyped_storage().data_ptr(): record for record in saved}
    found = [
        Kept(
            record.line,
            tuple(record.tensor.shape),
            record.tensor.dtype,
            record.tensor.untyped_storage().nbytes() / unit,
        )
        for storage, record in kept.items()
        if storage not in parameters
    ]
    del out
    return sorted(found, key=lambda one: -one.maps)


def _line() -> str:
    """Returns the line of a model's source file that is currently executed."""
    frame = sys._getframe()
    while frame and Path(frame.f_code.co_filename).parent.name != 'models':
        frame = frame.f_back
    if frame is None:
        return ''
    name = frame.f_code.co_filename
    return f'{Path(name).name}: {linecache.getline(name, frame.f_lineno).strip()}'


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--dtype', choices=measure.DTYPES, default='float32', help='autocast to this dtype')
    options = parser.parse_args()
    for name, block in BLOCKS.items():
        kept = kept_by(block, measure.DTYPES[options.dtype])
        rows = [
            [one.line, 'x'.join(map(str, one.shape)), str(one.dtype).removeprefix('torch.'), f'{one.maps:.2f}']
            for one in kept
        ]
        rows.append(['total', '', '', f'{sum(one.maps for one in kept):.2f}'])
        rows += [[f'ideal: {what}', '', '', f'{maps:.2f}'] for what, maps in block.ideal.items()]
        rows.append(['ideal, total', '', '', f'{sum(block.ideal.values()):.2f}'])
        measure.show(f'{name}, C = {block.channels}', ['saved by', 'shape', 'dtype', 'maps of C'], rows)


if __name__ == '__main__':
    main()
