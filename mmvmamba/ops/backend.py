"""The backends of the scan and of the convolution before it, one record each, and which of them runs."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from . import blocked, mamba_ssm, native, reference, self_check, torch_conv, triton
from .arguments import DTYPES
from .import_failure import import_failure
from .setting import Setting

AUTO = 'auto'


def _always() -> None:
    return None


def _constant_for_compilers(function: Callable) -> Callable:
    """`torch.compiler.assume_constant_result`; it imports the compiler, and that Triton, which may be broken."""
    if import_failure('torch._dynamo') is None:
        return torch.compiler.assume_constant_result(function)
    return function


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan, and the convolution that goes with it.

    Attributes:
        name: what users call it.
        devices: types of the devices that it runs on, None for any.
        dtypes: the types that any of its inputs may have.
        forward: from the arguments of the operator, without its last, to the map.
        backward: from the map's gradient and these arguments, without `out_dtype`, to the gradients of the eight
            tensors. None: it can only take the operator's place.
        conv_silu, conv_silu_backward: likewise for the operator of `depthwise_conv`; PyTorch's own by default.
        traceable: differentiable and traceable as it stands. Chosen by name, such a one takes the operator's place.
        unavailable_reason: says in one sentence why it cannot run on this machine, None if it can. Changes nothing.
        checks_itself: whether its first use of a kind has to agree with 'blocked', see `self_check.py`.
    """

    name: str
    devices: tuple[str, ...] | None
    dtypes: tuple[torch.dtype, ...]
    forward: Callable[..., torch.Tensor]
    backward: Callable[..., tuple[torch.Tensor | None, ...]] | None = None
    conv_silu: Callable[..., torch.Tensor] = torch_conv.conv_silu
    conv_silu_backward: Callable[..., tuple[torch.Tensor | None, ...]] = torch_conv.conv_silu_backward
    traceable: bool = False
    unavailable_reason: Callable[[], str | None] = _always
    checks_itself: bool = False

    def refusal(self, device: str, dtypes: Iterable[torch.dtype]) -> str | None:
        """What of these it does not take, None if it takes them."""
        if refused := [dtype for dtype in dtypes if dtype not in self.dtypes]:
            return str(refused[0]).removeprefix('torch.')
        return None if self.devices is None or device in self.devices else f'{device} tensors'

    def fault(self, use: self_check.Use | self_check.ConvUse | None) -> str | None:
        """Why what it computes is not to be believed, None if it is; without a use, nothing is computed to find out."""
        if use is None or not self.checks_itself:
            return None
        is_conv = isinstance(use, self_check.ConvUse)
        functions = (self.conv_silu, self.conv_silu_backward) if is_conv else (self.forward, self.backward)
        return self_check.fault(self.name, *functions, use)


# In the order in which 'auto' asks them. It never gets past 'blocked', which takes everything.
_BACKENDS = (
    Backend(
        'native',
        devices=('cpu',),
        dtypes=DTYPES[:3],
        forward=native.selective_scan_2d,
        backward=native.selective_scan_2d_backward,
        conv_silu=native.conv_silu,
        conv_silu_backward=native.conv_silu_backward,
        unavailable_reason=native.unavailable_reason,
    ),
    Backend(
        'triton',
        devices=('cuda', 'cpu') if os.environ.get('TRITON_INTERPRET') == '1' else ('cuda',),
        dtypes=DTYPES[:3],
        forward=triton.selective_scan_2d,
        backward=triton.selective_scan_2d_backward,
        conv_silu=triton.conv_silu,
        conv_silu_backward=triton.conv_silu_backward,
        unavailable_reason=triton.unavailable_reason,
        checks_itself=True,
    ),
    Backend(
        'blocked',
        devices=None,
        dtypes=DTYPES,
        forward=blocked.selective_scan_2d,
        backward=blocked.selective_scan_2d_backward,
        traceable=True,
    ),
    Backend('reference', devices=None, dtypes=DTYPES, forward=reference.selective_scan_2d, traceable=True),
    Backend(
        'mamba_ssm',
        devices=('cuda',),
        dtypes=DTYPES[:3],
        forward=mamba_ssm.selective_scan_2d,
        traceable=True,
        unavailable_reason=mamba_ssm.unavailable_reason,
    ),
)
BACKENDS = {backend.name: backend for backend in _BACKENDS}
KERNEL_DEVICES = {device for backend in _BACKENDS for device in backend.devices or ()}


class use_backend(Setting, default=AUTO):
    """Scan with the named backend: a call chooses for the process, a `with` block for its own thread and context.

    The choice made when a scan runs holds for its gradient, wherever that is computed; the one made when
    `torch.compile` or `torch.export` traces it stays in what they return. The environment variable `MMVMAMBA_SCAN`
    chooses at start; empty, it means 'auto'.

    Args:
        name: 'reference' (sequential), 'blocked' (plain PyTorch, traceable), 'native' (CPU), 'triton' (CUDA),
            'mamba_ssm' (CUDA, if installed), or 'auto': native on CPU, Triton on CUDA, else blocked.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend cannot run on this machine; the message says why.
    """

    def __init__(self, name: str):
        if name != AUTO:
            if name not in BACKENDS:
                raise ValueError(f'Unknown scan backend {name!r}: choose from {", ".join((AUTO, *BACKENDS))}.')
            if reason := BACKENDS[name].unavailable_reason():
                raise RuntimeError(f'The scan backend {name!r} cannot run here: {reason}')
        super().__init__(name)


def current_backend() -> str:
    """The name of the chosen backend, or 'auto'."""
    return _chosen_name()


# What PyTorch 2.4 compiles writes a constant result over the global of the function's name, in the module that is
# compiled: hence functions of their own, that no other module imports.
@_constant_for_compilers
def _chosen_name() -> str:
    return use_backend.get()


def choose(
    device: str, dtypes: Iterable[torch.dtype], name: str = AUTO, use: self_check.Use | self_check.ConvUse | None = None
) -> tuple[Backend, str | None]:
    """The backend that scans tensors of these types on a device of this type, and why no kernel does, if one could.

    Args:
        device: type of the device.
        dtypes: all that occur.
        name: of a backend, or 'auto'.
        use: what is to run next, for kernels that have yet to be seen to work; None only asks.

    Raises:
        ValueError: the named one does not take them.
        RuntimeError: the named one failed its check.
    """
    if name != AUTO:
        backend = BACKENDS[name]
        if refused := backend.refusal(device, dtypes):
            raise ValueError(
                f"The scan backend {name!r} does not take {refused}: use_backend('auto') finds one that does."
            )
        if fault := backend.fault(use):
            raise RuntimeError(f"Scan with use_backend('auto') instead: {fault}")
        return backend, None
    loss = None if device in KERNEL_DEVICES else f'there is no kernel for {device} tensors.'
    for backend in BACKENDS.values():
        if backend.refusal(device, dtypes) is None:
            reason = backend.unavailable_reason() or backend.fault(use)
            if reason is None:
                break
            loss = reason
    return backend, loss


def replaces_operator(name: str) -> bool:
    """Whether the chosen backend runs as operators of PyTorch, in place of this package's operator.

    Not under `torch.jit.trace`: it would record the steps of one size, and its FLOP counters would find no scan.
    """
    return name != AUTO and BACKENDS[name].traceable and not torch.jit.is_tracing()


def in_function_transform() -> bool:
    """Whether this runs, or is compiled, within a transform of `torch.func` or with forward-mode derivatives."""
    return _transforms_are_active()


@_constant_for_compilers
def _transforms_are_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


if name := os.environ.get('MMVMAMBA_SCAN'):
    use_backend(name)
