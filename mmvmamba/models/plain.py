"""Whether layers may be computed from their weights without being called."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def are_plain(layers: Iterable[nn.Module], kind: type[nn.Linear] | type[nn.Conv1d], bias: bool) -> bool:
    """Whether calling each layer does what `kind` does with its weight, and bias if it is to have one, and no more.

    A subclass, an adapter, a parametrization (which makes a subclass), hooks of the layer or of all modules, another
    `forward` set on the layer, and a quantised or distributed weight all act only when the layer is called.
    """
    for layer in layers:
        if type(layer) is not kind:
            return False
        state = layer.__dict__  # asked in every forward pass: attributes of modules would take five times as long
        if state['_forward_hooks'] or state['_forward_pre_hooks'] or 'forward' in state:
            return False
        if state['_backward_hooks'] or state['_backward_pre_hooks']:
            return False
        weight = state['_parameters'].get('weight')
        if weight is None or (state['_parameters'].get('bias') is not None) != bias:
            return False
        if type(weight) not in (nn.Parameter, Tensor) and is_traceable_wrapper_subclass(weight):
            return False
    return not _has_any_global_hook()
