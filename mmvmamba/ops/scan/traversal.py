"""The orders in which a scan walks a map, and the sets of them that the VMamba paper compares.

Two contracts meet here, and neither follows from the other: how kernels number the traversals, and in which order the
released files hold what belongs to each.
"""

from torch import Tensor

# Bits of a traversal's code, as the kernels read them: SCAN_COLUMN and SCAN_REVERSED of native/scan.h, and Triton's.
COLUMN, REVERSED = 1, 2
CODES = {'row': 0, 'column': COLUMN, 'row_reversed': REVERSED, 'column_reversed': COLUMN | REVERSED}
TRAVERSALS = tuple(CODES)

# Entry k of x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs and Ds in a released file belongs to CROSS[k].
CROSS = ('row', 'column', 'row_reversed', 'column_reversed')
UNIDIRECTIONAL = ('row',) * 4
BIDIRECTIONAL = ('row', 'row', 'row_reversed', 'row_reversed')


def traversal_codes(traversals: tuple[str, ...]) -> list[int]:
    """The codes of the named traversals.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    if not isinstance(traversals, (tuple, list)) or not traversals or any(n not in TRAVERSALS for n in traversals):
        raise ValueError(f'traversals={traversals!r} must be a non-empty tuple of {", ".join(TRAVERSALS)}.')
    return [CODES[name] for name in traversals]


def is_reversed(code: int) -> bool:
    return bool(code & REVERSED)


def to_sequence(x: Tensor, code: int) -> Tensor:
    """(b, H, W, ...) -> (b, H * W, ...), row-major or column-major; a reversed traversal walks this sequence
    backwards.
    """
    return (x.transpose(1, 2) if code & COLUMN else x).flatten(1, 2)


def to_map(x: Tensor, code: int, height: int, width: int) -> Tensor:
    """The inverse of `to_sequence`."""
    return x.unflatten(1, (width, height)).transpose(1, 2) if code & COLUMN else x.unflatten(1, (height, width))


def map_of_each(x: Tensor, codes: list[int]) -> Tensor:
    """(b, H, W, d), shared by the traversals, or (b, K, H, W, d) -> (b, K, H, W, d), a view."""
    return x if x.dim() == 5 else x.unsqueeze(1).expand(-1, len(codes), -1, -1, -1)
