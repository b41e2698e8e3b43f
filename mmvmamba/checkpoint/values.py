"""What the values of a file become in the types of a model."""

import torch
from torch import Tensor, nn

from .errors import CheckpointError, listing

# The types of one kind stand in for each other.
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_values(model: nn.Module, tensors: dict[str, Tensor], sources: dict[str, str]) -> None:
    """Checks that all values are finite and that the types of a model can hold them.

    Args:
        model: not changed.
        tensors: by their names in the model.
        sources: their names in the file.

    Raises:
        CheckpointError: NaN or Inf, in the file or after the conversion, or integers that would wrap around.
    """
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    spoilt, infinite, wrapped = [], [], []
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.numel() == 0 or tensor.dtype not in WEIGHTS + INTEGERS:
            continue
        source, dtype = sources[name], dtypes.get(name, tensor.dtype)
        extremes = torch.stack(tensor.aminmax())  # both are NaN if any value is
        if not extremes.isfinite().all():
            spoilt.append(source)
        elif dtype in WEIGHTS and not extremes.to(dtype).isfinite().all():
            infinite.append(f'{source} ({dtype})')
        elif dtype in INTEGERS and not torch.equal(extremes.to(dtype).long(), extremes.long()):
            wrapped.append(f'{source} ({dtype})')
    if spoilt:
        raise CheckpointError(f'there is NaN or Inf in {listing(spoilt)}: the training went wrong, use another file')
    if infinite:
        raise CheckpointError(
            f'there is NaN or Inf after the conversion to the type of the model in {listing(infinite)}: '
            'convert the model to the type of the file, or use another file'
        )
    if wrapped:
        raise CheckpointError(
            f'there are integers beyond the type of the model in {listing(wrapped)}: use another file'
        )
