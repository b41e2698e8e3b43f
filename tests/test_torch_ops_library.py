"""Tests mmvmamba's operators for C++: in Python processes that do not import mmvmamba, and in demo/libtorch/run.cpp."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvmamba.export import export_program
from mmvmamba.export.torch_ops_library import build_torch_ops
from mmvmamba.models import Vim, VMamba
from mmvmamba.ops import native
from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs

from .test_ops import test_depthwise_conv, test_native

DEMO = Path(__file__).parents[1] / 'demo/libtorch/run.cpp'
PYTORCH = Path(torch.__file__).parent
MODELS = {
    'vmamba': lambda: VMamba(dict(dims=8, depths=(1, 0, 0, 1)), out_indices=(0, 3)),
    'vim': lambda: Vim(dict(embed_dims=16, depth=1)),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which('g++'), reason='needs g++'),
    pytest.mark.skipif(torch.torch_version.__version__ < (2, 10), reason='needs PyTorch 2.10'),
    pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason())),
]


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return build_torch_ops(tmp_path_factory.mktemp('operators'))


def run_python(library, code, *arguments):
    """Runs code in a process that has loaded the library."""
    code = f'import sys, torch\ntorch.ops.load_library({library!r})\n{code}'
    return subprocess.run([sys.executable, '-c', code, *map(str, arguments)], capture_output=True, text=True)


COMPARE = """
for name, arguments, expected in torch.load(sys.argv[1]):
    found = getattr(torch.ops.mmvmamba, name)(*arguments)
    assert found.dtype == expected.dtype and torch.equal(found, expected), (name, arguments)
assert 'mmvmamba' not in sys.modules
"""


def test_results_are_those_of_the_operators_in_python(library, tmp_path):
    """They are identical, because the same kernels compute them."""
    calls = []
    for case in test_native.CASES.values():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            inputs, codes, softplus = test_native.case(**case)
            inputs = [t if t is None else t.to(dtype) for t in inputs]
            for out_dtype in (None, torch.float32):
                expected = native_scan.selective_scan_2d(ScanInputs(*inputs, codes, softplus), out_dtype or dtype)
                calls.append(('selective_scan_2d', (*inputs, codes, softplus, out_dtype), expected))
    for case in test_depthwise_conv.CASES.values():
        _, x, weight, bias, left = test_depthwise_conv.make(*case)
        for tensors in ((x, weight, bias), (x, weight, None), (x.bfloat16(), weight, bias)):
            expected = native_conv.conv_silu(*tensors, left)
            calls.append(('conv_silu', (*tensors, left), expected))
    torch.save(calls, tmp_path / 'calls.pt')
    done = run_python(library, COMPARE, tmp_path / 'calls.pt')
    assert done.returncode == 0, done.stderr


def test_schemas_are_those_of_the_operators_in_python(library):
    names = ('selective_scan_2d', 'conv_silu')
    done = run_python(library, f'for name in {names}: print(getattr(torch.ops.mmvmamba, name).default._schema)')
    assert done.stdout.splitlines() == [str(getattr(torch.ops.mmvmamba, name).default._schema) for name in names]


WRONG = """
x, dt, A, B = (torch.rand(size) for size in ((1, 4, 5, 6), (1, 1, 4, 5, 6), (1, 6, 2), (1, 1, 4, 5, 2)))
for changes in (dict(A=A[:, :5]), dict(x=x[0]), dict(dt=dt[..., :3]), dict(codes=[]),
                dict(backend='chunked')):
    arguments = dict(x=x, dt=dt, A=A, B=B, C=B, D=None, dt_bias=None, dt_weight=None, codes=[0], dt_softplus=True,
                     out_dtype=None) | changes
    try:
        torch.ops.mmvmamba.selective_scan_2d(**arguments)
    except RuntimeError as error:
        print(str(error).splitlines()[0])
for weight in (torch.rand(6, 3, 3), torch.rand(1, 5, 3, 3)):
    try:
        torch.ops.mmvmamba.conv_silu(x, weight, None, [1])
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


def test_wrong_arguments_are_rejected(library):
    done = run_python(library, WRONG)
    forms = 'x must be (b, H, W, d) or (b, K, H, W, d), dt (b, K, H, W, r) and A (K, d, n).'
    assert [line.partition('mmvmamba: ')[2] for line in done.stdout.splitlines()] == [
        'A has a shape that does not fit the other arguments.',
        forms,
        'dt has a shape that does not fit the other arguments.',
        forms,
        "the backend 'chunked' needs Python: trace or export the model with the backend 'auto'.",
        'x must be (B, H, W, E), and weight (K, E, rows, columns).',
        'weight has a shape that does not fit the other arguments.',
    ]


def test_library_has_no_effect_in_a_process_that_has_imported_mmvmamba(library):
    code = f"""
import torch, mmvmamba
torch.ops.load_library({library!r})
print(torch._C._dispatch_has_kernel_for_dispatch_key('mmvmamba::conv_silu', 'CPU'))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('False\n', '')


def test_importing_mmvmamba_after_the_library_is_rejected(library):
    done = run_python(library, 'import mmvmamba')
    assert done.stderr.splitlines()[-1] == (
        "ImportError: This process has already loaded mmvmamba's operators from torch_ops.so: "
        'import mmvmamba before the library, or do without one of them.'
    )


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    program = tmp_path_factory.mktemp('program') / 'run'
    flags = ['-std=c++17', *(f'-I{PYTORCH}/include/{folder}' for folder in ('', 'torch/csrc/api/include'))]
    libraries = [f'-L{PYTORCH}/lib', '-ltorch', '-ltorch_cpu', '-lc10', f'-Wl,-rpath,{PYTORCH}/lib']
    subprocess.run(['g++', *flags, DEMO, '-o', program, *libraries], check=True)
    return program


def write_trace(model, path):
    torch.jit.trace(model, torch.rand(1, 3, 64, 64), check_trace=False).save(path)


def write_package(model, path):
    torch._inductor.aoti_compile_and_package(export_program(model), package_path=str(path))


@pytest.mark.parametrize('write, suffix', [(write_trace, '.pt'), (write_package, '.pt2')], ids=['TorchScript', 'AOTI'])
@pytest.mark.parametrize('name', MODELS)
def test_cpp_program_computes_the_outputs_of_the_model(name, write, suffix, library, program, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]().eval().requires_grad_(False)
    file = tmp_path / f'model{suffix}'
    write(model, file)
    for size in ((64, 96), (57, 101)):  # other sizes than that of the trace
        images = torch.rand(1, 3, *size)
        (tmp_path / 'image.f32').write_bytes(images.numpy().tobytes())
        command = [program, file, library, tmp_path / 'image.f32', *map(str, size)]
        done = subprocess.run(command, capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        outputs = model(images)
        lines = done.stdout.splitlines()
        assert len(lines) == len(outputs)
        for line, expected in zip(lines, outputs):
            shape, values = re.fullmatch(r'\[(.*)\]: (.*)', line).groups()
            assert shape == ', '.join(map(str, expected.shape))
            found = torch.tensor([float(value) for value in values.split()])
            torch.testing.assert_close(found, expected.flatten()[:10], rtol=1e-5, atol=1e-5)


def test_cpp_program_reports_a_missing_library_and_a_wrong_image(program, library, tmp_path):
    (tmp_path / 'image.f32').write_bytes(bytes(12))
    for operators, message in ((tmp_path / 'none.so', 'none.so: cannot open'), (library, 'must contain 12 float32')):
        command = [program, tmp_path / 'model.pt', operators, tmp_path / 'image.f32', '2', '2']
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr


def test_failure_of_the_compiler_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-compiler')
    with pytest.raises(
        FileNotFoundError, match=r'C\+\+ need the C\+\+ compiler no-compiler: install g\+\+, or set CXX'
    ):
        build_torch_ops(tmp_path)
    monkeypatch.setenv('CXX', 'false')
    with pytest.raises(RuntimeError, match=r'false could not compile torch_ops\.so \(no message\)\.$'):
        build_torch_ops(tmp_path)
