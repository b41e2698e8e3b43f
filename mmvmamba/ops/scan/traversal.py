"""Traversals, the orders in which a scan visits the positions of a map.

Two independent conventions are defined here: the codes of the traversals in the kernels, and the order of the
traversals in the tensors of released checkpoints.
"""

from torch import Tensor

# The bits of a traversal code, in native/scan.h (SCAN_COLUMN and SCAN_REVERSED) and in the Triton kernels.
COLUMN, REVERSED = 1, 2
CODES = {'row': 0, 'column': COLUMN, 'row_reversed': REVERSED, 'column_reversed': COLUMN | REVERSED}
TRAVERSALS = tuple(CODES)

# The traversals that VMamba compares. In released files, entry k of x_proj_weight, dt_projs_weight, dt_projs_bias,
# A_logs and Ds belongs to CROSS[k].
CROSS = ('row', 'column', 'row_reversed', 'column_reversed')
UNIDIRECTIONAL = ('row',) * 4
BIDIRECTIONAL = ('row', 'row', 'row_reversed', 'row_reversed')


def traversal_codes(traversals: tuple[str, ...]) -> list[int]:
    """The codes of the named traversals.

    Raises:
        ValueError: `traversals` is empty or contains an unknown name.
    """
    if not isinstance(traversals, (tuple, list)) or not traversals or any(n not in TRAVERSALS for n in traversals):
        raise ValueError(f'traversals={traversals!r} must be a non-empty tuple of {", ".join(TRAVERSALS)}.')
    return [CODES[name] for name in traversals]


def is_reversed(code: int) -> bool:
    return bool(code & REVERSED)


def to_sequence(x: Tensor, code: int) -> Tensor:
    """(b, H, W, ...) -> (b, H * W, ...), row-major or column-major. A reversed traversal visits it backwards."""
    return (x.transpose(1, 2) if code & COLUMN else x).flatten(1, 2)


def to_map(x: Tensor, code: int, height: int, width: int) -> Tensor:
    """The inverse of `to_sequence`."""
    return x.unflatten(1, (width, height)).transpose(1, 2) if code & COLUMN else x.unflatten(1, (height, width))


def one_map_per_traversal(x: Tensor, codes: list[int]) -> Tensor:
    """A shared map (b, H, W, d), or one map per traversal (b, K, H, W, d) -> (b, K, H, W, d), a view."""
    return x if x.dim() == 5 else x.unsqueeze(1).expand(-1, len(codes), -1, -1, -1)
