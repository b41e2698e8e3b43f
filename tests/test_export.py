"""Exported models give what the models give, for images of any size."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvmamba.export import export_program
from mmvmamba.models import Vim, VMamba
from mmvmamba.ops import CROSS, selective_scan_2d

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

MODELS = {
    'vmamba': (VMamba, dict(arch=dict(dims=8, depths=(1, 0, 0, 1), ssm_ratio=1.0), out_indices=(0, 3))),
    'vanilla': (
        VMamba,
        dict(
            arch=dict(
                dims=8, depths=(1, 1, 0, 0), d_state=16, mlp_ratio=0.0, gate=True, stem='patch', downsample='merging'
            ),
            out_indices=(1,),
        ),
    ),
    'vim': (Vim, dict(arch=dict(embed_dims=16, depth=1), rope_grid=14)),
    'vim classifier': (Vim, dict(arch=dict(embed_dims=16, depth=1), pooling='middle')),
}


def session(onnx):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx.model_proto.SerializeToString(), options, ['CPUExecutionProvider'])


@pytest.mark.parametrize('name', MODELS)
def test_any_size_and_batch(name):
    from mmvmamba.export.onnx_model import to_onnx

    torch.manual_seed(0)
    family, arguments = MODELS[name]
    model = family(**arguments).eval()
    program = export_program(model)
    onnx = session(to_onnx(program))
    assert onnx.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    for size in ((1, 3, 224, 224), (3, 3, 57, 101)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = model(images)
        for out, y, eager in zip(onnx.run(None, {'images': images.numpy()}), program.module()(images), expected):
            torch.testing.assert_close(torch.from_numpy(out), eager, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(y, eager, atol=1e-5, rtol=1e-5)


class Scan(nn.Module):
    """A scan as a model of one argument: what else it reads comes from x."""

    def __init__(self, traversals, d_state, rank, each_its_own, dt_softplus=True):
        super().__init__()
        K, d = len(traversals), 3
        self.A = nn.Parameter(-torch.rand(K, d, d_state) - 0.1)
        self.D, self.dt_bias = (
            nn.Parameter(torch.randn(K, d)),
            nn.Parameter(torch.randn(K, d) if rank else torch.zeros(K, d)),
        )
        self.dt_weight = nn.Parameter(torch.randn(K, d, rank)) if rank else None
        self.project = nn.Linear(d, (rank or d) + 2 * d_state)
        self.traversals, self.each_its_own = traversals, each_its_own

    def forward(self, images):
        x = images.permute(0, 2, 3, 1)
        maps = torch.stack([x * (k + 1) for k in range(len(self.traversals))], 1)
        rank, n = self.project.out_features - 2 * self.A.shape[2], self.A.shape[2]
        dt, B, C = self.project(maps).split((rank, n, n), -1)
        x = maps if self.each_its_own else x
        return selective_scan_2d(x, dt, self.A, B, C, self.D, self.dt_bias, self.dt_weight, traversals=self.traversals)


@pytest.mark.parametrize(
    'arguments',
    [(CROSS, 1, 2, True), (CROSS, 4, None, False), (('column_reversed', 'row', 'row'), 1, 2, False)],
)
def test_scan_in_every_form(arguments):
    from mmvmamba.export.onnx_model import to_onnx

    torch.manual_seed(0)
    scan = Scan(*arguments)
    onnx = session(to_onnx(export_program(scan)))
    images = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        expected = scan(images)
    [y] = onnx.run(None, {'images': images.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), expected, atol=1e-5, rtol=1e-5)
