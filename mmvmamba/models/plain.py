"""Whether layers may be computed from their weights without being called."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def are_plain(layers: Iterable[nn.Module], kind: type[nn.Module], bias: bool) -> bool:
    """Whether calling each layer does what `kind` does with its weight, and bias if it is to have one, and no more.

    A quantised or distributed weight acts only when the layer is called, like all that `is_untouched` asks for.
    """
    for layer in layers:
        if not is_untouched(layer, kind):
            return False
        parameters = layer.__dict__['_parameters']
        weight = parameters.get('weight')
        if weight is None or (parameters.get('bias') is not None) != bias:
            return False
        if type(weight) not in (nn.Parameter, Tensor) and is_traceable_wrapper_subclass(weight):
            return False
    return True


def is_untouched(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the layer does what its class, `kind`, says in `forward`, and no more.

    A subclass, an adapter, a parametrization (which makes a subclass), hooks of the layer or of all modules, and
    another `forward` set on the layer all act only when the layer is called.
    """
    if type(layer) is not kind:
        return False
    state = layer.__dict__  # asked in every forward pass: attributes of modules would take five times as long
    if state['_forward_hooks'] or state['_forward_pre_hooks'] or 'forward' in state:
        return False
    if state['_backward_hooks'] or state['_backward_pre_hooks']:
        return False
    return not (
        of_all_modules._global_forward_hooks
        or of_all_modules._global_forward_pre_hooks
        or of_all_modules._global_backward_hooks
        or of_all_modules._global_backward_pre_hooks
    )
