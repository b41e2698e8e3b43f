"""Whether the types of a model can hold the values of a checkpoint."""

import torch
from torch import Tensor, nn

from .errors import CheckpointError, listing

# A tensor can be converted between the types of one group.
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def dtype_error(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """Returns why a tensor cannot be converted to a parameter or buffer of this type; None if it can."""
    if tensor.is_quantized or tensor.layout != torch.strided:
        return f'is quantised ({tensor.dtype})' if tensor.is_quantized else 'is sparse'
    if tensor.dtype == dtype or any(tensor.dtype in group and dtype in group for group in (WEIGHTS, INTEGERS)):
        return None
    return f'is {tensor.dtype} instead of {dtype}'


def check_values(model: nn.Module, tensors: dict[str, Tensor], sources: dict[str, str]) -> None:
    """Checks that all values are finite and that the types of a model can hold them.

    Args:
        model: is not changed.
        tensors: the tensors to load, under the keys of the model.
        sources: the keys of these tensors in the checkpoint.

    Raises:
        CheckpointError: there is NaN or Inf in a tensor or after its conversion, or an integer would wrap around.
    """
    dtypes = {key: tensor.dtype for key, tensor in model.state_dict().items()}
    invalid, infinite, wrapped = [], [], []
    for key, tensor in tensors.items():
        if tensor.is_meta or tensor.numel() == 0 or tensor.dtype not in WEIGHTS + INTEGERS:
            continue
        source, dtype = sources[key], dtypes.get(key, tensor.dtype)
        extremes = torch.stack(tensor.aminmax())  # both are NaN if any value is
        if not extremes.isfinite().all():
            invalid.append(source)
        elif dtype in WEIGHTS and not extremes.to(dtype).isfinite().all():
            infinite.append(f'{source} ({dtype})')
        elif dtype in INTEGERS and not torch.equal(extremes.to(dtype).long(), extremes.long()):
            wrapped.append(f'{source} ({dtype})')
    if invalid:
        raise CheckpointError(
            f'there is NaN or Inf in {listing(invalid)}: use a checkpoint from before the training diverged'
        )
    if infinite:
        raise CheckpointError(
            f'there is NaN or Inf after the conversion to the type of the model in {listing(infinite)}: '
            'convert the model to the type of the file, or use another file'
        )
    if wrapped:
        raise CheckpointError(
            f'there are integers beyond the type of the model in {listing(wrapped)}: use another file'
        )
