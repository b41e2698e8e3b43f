"""Runs scans on a device without kernels, in a separate process started by `test_backend.py`."""

import logging
import os

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mmvmamba.ops import selective_scan_2d

from .cases import scan_inputs, value_and_grads

PRIVATE = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


class ToyTensor(Tensor):
    """A tensor of the device `toy` whose data is on the CPU, where PyTorch's operators run."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: Tensor):
        options = dict(dtype=data.dtype, device='toy:0', requires_grad=data.requires_grad)
        tensor = Tensor._make_wrapper_subclass(cls, data.shape, data.stride(), **options)
        tensor.data_on_cpu = data.detach()
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        if operator.namespace == 'mmvmamba':
            return operator.redispatch(PRIVATE, *args)  # the kernel that the dispatcher has for this device
        args, kwargs = tree_map_only(cls, lambda t: t.data_on_cpu, (args, kwargs or {}))
        if 'device' in kwargs:
            kwargs['device'] = 'cpu'
        return tree_map_only(Tensor, cls, operator(*args, **kwargs))


def main() -> None:
    _setup_privateuseone_for_python_backend('toy')
    logging.basicConfig(format='%(message)s')
    for per_traversal in (False, True):
        inputs = scan_inputs(2, 3, 4, 5, 2, K=4, rank=2, per_traversal=per_traversal, dtype=torch.float32)
        y, grads = value_and_grads(selective_scan_2d, inputs)
        toys = {name: ToyTensor(t.requires_grad_()) for name, t in inputs.items()}
        y_toy = selective_scan_2d(**toys)
        assert y_toy.device == torch.device('toy:0')
        torch.testing.assert_close(y_toy.data_on_cpu, y)
        weight = torch.linspace(0, 20, y.numel()).cos().view(y.shape)
        grads_toy = torch.autograd.grad((y_toy * ToyTensor(weight)).sum(), list(toys.values()))
        for grad, expected in zip(grads_toy, grads.values()):
            torch.testing.assert_close(grad.data_on_cpu, expected, atol=1e-4, rtol=1e-4)


if __name__ == '__main__':
    main()
    os._exit(0)  # autograd's thread for the device cannot be joined
