"""The orders in which a scan walks a map, and the sets of them that the VMamba paper compares."""

from torch import Tensor

TRAVERSALS = ('row', 'column', 'row_reversed', 'column_reversed')

CROSS = TRAVERSALS
UNIDIRECTIONAL = ('row',) * 4
BIDIRECTIONAL = ('row', 'row', 'row_reversed', 'row_reversed')


def traversal_codes(traversals: tuple[str, ...]) -> list[int]:
    """Numbers of the named traversals: bit 0 says column-major, bit 1 says reversed."""
    unknown = [name for name in traversals if name not in TRAVERSALS]
    if unknown or not traversals:
        raise ValueError(f'traversals={traversals!r} must be a non-empty tuple of {", ".join(TRAVERSALS)}.')
    return [TRAVERSALS.index(name) for name in traversals]


def is_reversed(code: int) -> bool:
    return bool(code & 2)


def to_sequence(x: Tensor, code: int) -> Tensor:
    """(b, H, W, ...) -> (b, H * W, ...), row-major or column-major; a reversed traversal walks this sequence
    backwards.
    """
    return (x.transpose(1, 2) if code & 1 else x).flatten(1, 2)


def to_map(x: Tensor, code: int, height: int, width: int) -> Tensor:
    """The inverse of `to_sequence`."""
    return x.unflatten(1, (width, height)).transpose(1, 2) if code & 1 else x.unflatten(1, (height, width))
