"""Checks whether a layer may be computed from its weights without calling it.

Subclasses, adapters, parametrizations (which create a subclass), hooks of the layer or of all modules, a `forward`
set on the instance, and quantised or distributed weights take effect only when the layer is called.
"""

from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def can_use_raw_weights(kind: type[nn.Module], *layers: nn.Module) -> bool:
    """Whether each layer computes exactly what the class `kind` computes from the layer's weight and bias."""
    for layer in layers:
        if not has_default_forward(kind, layer):
            return False
        weight = layer.__dict__['_parameters'].get('weight')
        if weight is None or (type(weight) not in (nn.Parameter, Tensor) and is_traceable_wrapper_subclass(weight)):
            return False
    return True


def has_default_forward(kind: type[nn.Module], layer: nn.Module) -> bool:
    """Whether calling the layer runs the `forward` of the class `kind` and nothing else."""
    if type(layer) is not kind:
        return False
    state = layer.__dict__  # runs in every forward pass; attribute access on modules would take five times as long
    if state['_forward_hooks'] or state['_forward_pre_hooks'] or 'forward' in state:
        return False
    if state['_backward_hooks'] or state['_backward_pre_hooks']:
        return False
    return not (
        all_modules._global_forward_hooks
        or all_modules._global_forward_pre_hooks
        or all_modules._global_backward_hooks
        or all_modules._global_backward_pre_hooks
    )
