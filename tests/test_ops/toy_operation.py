"""An operation with a kernel and a plain PyTorch backend, written like the folders of mmvmamba/ops: y = x ** 3."""

from typing import NamedTuple

import torch

from mmvmamba.ops import current_backend, self_check
from mmvmamba.ops.operation import Backend, Operation


def plain(x):
    return x**3


def plain_backward(grad, x):
    return (3 * grad * x**2,)


def kernel(x):
    calls.append('forward')
    return x * x * x


def kernel_backward(grad, x):
    calls.append('backward')
    return (grad * x * x * 3,)


calls = []  # of the kernel


class CubeSignature(NamedTuple):
    device: torch.device
    dtypes: tuple

    @classmethod
    def of(cls, inputs):
        return cls(inputs[0].device, (inputs[0].dtype,))

    @property
    def exact(self):
        return plain, plain_backward

    def small_inputs(self):
        yield [torch.linspace(-2, 2, 9, dtype=self.dtypes[0]), torch.ones(9, dtype=self.dtypes[0])]

    def results(self, forward, backward, tensors):
        x, grad = tensors
        return dict(y=forward(x), dx=backward(grad, x)[0])

    def __str__(self):
        return f'the cube on {self_check.device_and_dtypes(self)}'


CUBE = Operation(
    'cube',
    CubeSignature.of,
    Backend(
        'toy_kernel',
        devices=('cpu',),
        dtypes=(torch.float32,),
        forward=kernel,
        backward=kernel_backward,
        verify_on_first_use=True,
    ),
    Backend(
        'chunked',
        devices=None,
        dtypes=(torch.float32, torch.float64),
        forward=plain,
        backward=plain_backward,
        traceable=True,
    ),
)


def cube(x):
    name = current_backend()
    if CUBE.runs_without_operator(name):
        return CUBE.named_or_plain_pytorch(name).forward(x)
    return torch.ops.mmvmamba.toy_cube(x, name)


library = torch.library.Library('mmvmamba', 'FRAGMENT')
library.define('toy_cube(Tensor x, str backend) -> Tensor')


def forward(x, backend):
    return CUBE.select(x.device.type, {x.dtype}, backend, (x,)).forward(x)


def save_inputs(ctx, inputs, output):
    x, ctx.backend = inputs
    ctx.save_for_backward(x)


def differentiate(ctx, grad):
    [x] = ctx.saved_tensors
    [grad_x] = CUBE.select(x.device.type, {x.dtype}, ctx.backend, (x,)).backward(grad, x)
    return grad_x, None


library.impl('toy_cube', forward, 'CompositeExplicitAutograd')
torch.library.register_autograd('mmvmamba::toy_cube', differentiate, setup_context=save_inputs)
