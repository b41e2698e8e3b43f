"""Compiles demo/onnxruntime_c/classify.c and compares its classes with those of the model."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from mmvmamba.export import custom_op_library, export_program
from mmvmamba.export.onnx_model import to_onnx
from mmvmamba.models import Vim, VMamba

DEMO = Path(__file__).parents[2] / 'demo/onnxruntime_c/classify.c'
RUNTIMES = sorted(Path(onnxruntime.__file__).parent.glob('capi/libonnxruntime.so.*'))
HEADERS = [str(Path(__file__).parent), os.environ.get('ONNXRUNTIME_INCLUDE')]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which('gcc') and RUNTIMES), reason='needs gcc and libonnxruntime.so'),
]


class Classifier(nn.Module):
    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, 7)

    def forward(self, images):
        return self.head(self.backbone(images / 128 - 1)[0].mean((2, 3)))


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Two classifiers, and their exported files."""
    folder = tmp_path_factory.mktemp('models')
    torch.manual_seed(0)
    backbones = dict(
        vmamba=VMamba(arch=dict(dims=8, depths=(1, 1, 0, 0), ssm_ratio=1.0), out_indices=(1,)),
        vim=Vim(arch=dict(embed_dims=16, depth=1)),
    )
    found = {}
    for name, backbone in backbones.items():
        model = Classifier(backbone, 16).eval()
        to_onnx(export_program(model), custom_op=True).save(folder / f'{name}.onnx')
        found[name] = model, folder / f'{name}.onnx'
    return found


@pytest.fixture(params=HEADERS, ids=['the own declarations', 'the header of onnxruntime'])
def program(request, tmp_path):
    if not request.param:
        pytest.skip('needs ONNXRUNTIME_INCLUDE')
    runtime, program = RUNTIMES[0], tmp_path / 'classify'
    tmp_path.joinpath('libonnxruntime.so.1').symlink_to(runtime)  # the name that the linker records
    flags = ['-std=c11', '-Wall', '-Werror', '-I', request.param, f'-Wl,-rpath,{tmp_path}']
    subprocess.run(['gcc', *flags, DEMO, tmp_path / 'libonnxruntime.so.1', '-o', program], check=True)
    return program


def classify(program, *arguments):
    """Runs the program without Python's environment, and the library outside of the package."""
    library = program.with_name('operators.so')
    shutil.copy(custom_op_library(), library)
    model, *rest = map(str, arguments)
    return subprocess.run([program, model, library, *rest], capture_output=True, text=True, env={})


@pytest.mark.parametrize('name', ['vmamba', 'vim'])
def test_c_program_predicts_the_same_class_as_python(name, models, program, tmp_path):
    model, file = models[name]
    for i, (height, width) in enumerate([(64, 96), (57, 101), (224, 224), (64, 64), (80, 48)]):
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(i)) * torch.tensor(255.0 - 50 * i)
        tmp_path.joinpath('image.f32').write_bytes(image.numpy().tobytes())
        done = classify(program, file, tmp_path / 'image.f32', height, width)
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(r'class (\d+), logit (\S+)\n', done.stdout)
        with torch.no_grad():
            [logits] = model(image[None])
        assert int(found[1]) == int(logits.argmax())
        # both round the logits of a few layers of random weights, in other orders
        assert abs(float(found[2]) - logits.max().item()) < 1e-4


def test_c_program_reports_errors_of_the_operators(models, program, tmp_path):
    _, file = models['vmamba']
    tmp_path.joinpath('image.f32').write_bytes(bytes(4 * 3 * 64 * 64))
    done = classify(program, file, tmp_path / 'image.f32', 64, 65)
    assert done.returncode == 1 and done.stderr.endswith('image.f32 must contain 12480 float32 values.\n')
    done = classify(program, tmp_path / 'none.onnx', tmp_path / 'image.f32', 64, 64)
    assert done.returncode == 1 and 'none.onnx' in done.stderr
