"""Tests the operators for onnxruntime against the operators of PyTorch, which run the same kernels on OpenMP."""

import ctypes
import random
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from mmvmamba.export import custom_op_library
from mmvmamba.ops import native
from mmvmamba.ops.conv import native as native_conv
from mmvmamba.ops.scan import native as native_scan
from mmvmamba.ops.scan.scan_inputs import ScanInputs
from tests.test_ops import test_depthwise_conv, test_native
from tests.test_ops.test_native import isa  # noqa: F401  (a fixture)

from .fuzz import ERROR, run_case
from .rowwise import agrees, expected_gelu, expected_norm
from .single_node import (
    CONV,
    GELU,
    NORM,
    SCAN,
    WRONG_ATTRIBUTES,
    convolve,
    gelu,
    node_model,
    norm,
    scan,
    scan_tensors,
    session,
)

pytestmark = pytest.mark.skipif(native.unavailable_reason() is not None, reason=str(native.unavailable_reason()))


@pytest.mark.usefixtures('isa')
@pytest.mark.parametrize('name', test_native.CASES)
def test_scan_equals_the_pytorch_operator_for_any_number_of_threads(name):
    """The results are identical, because the arithmetic does not depend on the threads or the strides."""
    inputs, codes, softplus = test_native.case(**test_native.CASES[name])
    expected = native_scan.selective_scan_2d(ScanInputs(*inputs, codes, softplus), torch.float32)
    for side_by_side in (False, True):
        tensors = scan_tensors(*inputs, side_by_side)
        for threads in (1, 2, 4):
            assert torch.equal(scan(tensors, codes, softplus, threads=threads), expected)


@pytest.mark.usefixtures('isa')
@pytest.mark.parametrize('name', test_depthwise_conv.CASES)
def test_convolution_equals_the_pytorch_operator_for_any_number_of_threads(name):
    _, *tensors, left = test_depthwise_conv.make(*test_depthwise_conv.CASES[name])
    for bias in (tensors[2], None):
        tensors[2] = bias
        expected = native_conv.conv_silu(*tensors, left)
        for threads in (1, 2, 4):
            assert torch.equal(convolve(tensors, left, threads=threads), expected)


ROWS = dict(
    one_vector=(16,),
    part_of_a_vector=(3, 5),
    a_vector_and_a_part=(2, 3, 18),
    several_blocks=(7, 5, 13, 37),
    longer_than_a_block=(3, 17000),
    five_dimensions=(2, 1, 3, 2, 96),
    no_rows=(0, 8),
)


@pytest.mark.usefixtures('isa')
@pytest.mark.parametrize('shape', ROWS.values(), ids=ROWS)
def test_gelu_with_bias_equals_float64_for_any_number_of_threads(shape):
    tensors = [3 * torch.randn(shape), torch.randn(shape[-1])]
    y = gelu(tensors)
    assert agrees(y, expected_gelu(*tensors))
    assert all(torch.equal(gelu(tensors, threads=threads), y) for threads in (2, 4))


@pytest.mark.usefixtures('isa')
def test_gelu_is_accurate_everywhere():
    x = torch.cat(
        [torch.linspace(-14, 14, 200001), torch.tensor([0.0, -0.0, 1e-30, 1e30, -1e30, torch.inf, -torch.inf])]
    )
    y, exact = gelu([x[:, None], torch.zeros(1)])[:, 0].double(), x.double() * torch.special.ndtr(x.double())
    exact[-1] = 0  # -infinity * 0
    assert ((y - exact).abs() / x.abs().double().clamp(1e-3, 1e30))[x.isfinite()].max() < 2e-7
    tail = (-5 < x) & (x < 0)
    assert ((y - exact).abs() / exact.abs())[tail].max() < 1e-5
    assert y[-2] == torch.inf and y[-1] == 0
    assert gelu([torch.full((1, 3), torch.nan), torch.zeros(3)]).isnan().all()


@pytest.mark.usefixtures('isa')
@pytest.mark.parametrize('rms', [False, True])
@pytest.mark.parametrize('shape', ROWS.values(), ids=ROWS)
def test_norm_equals_float64_for_any_number_of_threads(shape, rms):
    x, weight, shift, residual, bias = (
        0.5 + torch.randn(size) for size in (shape, shape[-1:], shape[-1:], shape, shape[-1:])
    )
    for added in ((None, None), (residual, None), (None, bias), (residual, bias)):
        for tensors in ([x, weight, shift, *added], [x, weight, None, *added]):
            assert agrees(norm(tensors, rms), expected_norm(*tensors, rms))
        if added != (None, None):
            outputs = norm(tensors, rms, with_sum=True)
            for y, expected in zip(outputs, expected_norm(*tensors, rms, with_sum=True), strict=True):
                assert agrees(y, expected)
            for threads in (2, 4):
                again = norm(tensors, rms, with_sum=True, threads=threads)
                assert all(torch.equal(y, expected) for y, expected in zip(again, outputs, strict=True))


def scan_case(**options):
    """Returns the tensors of a node, the traversal codes, and whether softplus is applied."""
    inputs, codes, softplus = test_native.case(2, 5, 7, 18, 2, test_native.CROSS, **options)
    return scan_tensors(*inputs), codes, softplus


def test_repeated_runs_of_a_session_are_identical():
    inputs, codes, softplus = scan_case(rank=3)
    opened = session(node_model(SCAN, inputs, codes=codes, softplus=1), threads=4)
    feed = {name: t.numpy() for name, t in zip(SCAN[1], inputs)}
    first = opened.run(None, feed)[0].copy()
    assert all((opened.run(None, feed)[0] == first).all() for _ in range(100))


def test_output_shapes_are_inferred_from_named_sizes():
    inputs, codes, _ = scan_case(per_traversal=True)
    for shape in (['batch', 4, 'height', 'width', 18], ['batch', 'height', 'width', 18]):
        model = node_model(SCAN, inputs, codes=codes, softplus=1, shapes=dict(x=shape))
        assert session(model).get_outputs()[0].shape == ['batch', 'height', 'width', 18]
    shape = ['batch', 5, 'width', 8]
    tensors = [torch.empty(1, 5, 7, 8), torch.empty(2, 8, 3, 3), None]
    model = node_model(CONV, tensors, left=[1, 1], shapes=dict(x=shape, weight=[2, 8, 3, 3]))
    assert session(model).get_outputs()[0].shape == ['batch', 2, 5, 'width', 8]
    model = node_model(CONV, tensors, left=[1], shapes=dict(x=shape, weight=[1, 8, 3, 3]))
    assert session(model).get_outputs()[0].shape == shape
    assert session(node_model(GELU, [torch.empty(1)] * 2, shapes=dict(x=shape))).get_outputs()[0].shape == shape
    tensors, outputs = [torch.empty(1)] * 5, ('y', 'sum')
    model = node_model(NORM, tensors, outputs=outputs, rms=0, epsilon=0.1, shapes=dict(x=shape))
    assert [output.shape for output in session(model).get_outputs()] == [shape, shape]


def error_of(call, *arguments, **options):
    """Returns the message of the operator's error."""
    with pytest.raises(InvalidArgument) as caught:
        call(*arguments, **options)
    match = ERROR.search(str(caught.value))
    assert match, caught.value
    return match[0]


def edited(tensors, index, shape):
    return [torch.zeros(shape) if i == index else t for i, t in enumerate(tensors)]


@pytest.mark.parametrize(
    'index, shape, message',
    [
        (0, (5, 7, 18), 'x is (5, 7, 18), expected (b, H, W, d) or (b, K, H, W, d).'),
        (0, (1,) * 7, 'x is of rank 7, expected (b, H, W, d) or (b, K, H, W, d).'),
        (0, (), 'x is (), expected (b, H, W, d) or (b, K, H, W, d).'),
        (0, (2, 0, 7, 18), 'x is (2, 0, 7, 18), expected at least one position and one channel.'),
        (
            0,
            (2, 5, 7, 17),
            'A has the shape (4, 18, 2), expected (4, 17, 2) for x (2, 5, 7, 17), A (4, 18, 2), a rank of 3 and '
            '4 traversals.',
        ),
        (
            1,
            (2, 4, 5, 7, 1),
            'projected has the shape (2, 4, 5, 7, 1), expected (2, 4, 5, 7, 7) for x (2, 5, 7, 18), A (4, 18, 2), '
            'a rank of 3 and 4 traversals.',
        ),
        (
            1,
            (2, 5, 7, 7),
            'projected has the shape (2, 5, 7, 7), expected (2, 5, 7, 28) for x (2, 5, 7, 18), A (4, 18, 2), '
            'a rank of 3 and 4 traversals.',
        ),
        (2, (4, 18), 'A is (4, 18), expected (K, d, n).'),
        (2, (4, 18, 0), 'A is (4, 18, 0) and dt_weight (4, 18, 3), expected a state size and a rank of at least 1.'),
        (5, (4, 18, 0), 'A is (4, 18, 2) and dt_weight (4, 18, 0), expected a state size and a rank of at least 1.'),
    ],
)
def test_wrong_scan_inputs_raise_one_sentence(index, shape, message):
    inputs, codes, softplus = scan_case(rank=3)
    found = error_of(scan, edited(inputs, index, shape), codes, softplus)
    assert found == f'mmvmamba::SelectiveScan2D: {message}'


@pytest.mark.parametrize(
    'index, shape, message',
    [
        (0, (5, 7, 8), 'x is (5, 7, 8), expected (b, H, W, e).'),
        (0, (1, 5, 0, 8), 'x is (1, 5, 0, 8), expected at least one position and one channel.'),
        (0, (1, 5, 7, 9), 'weight has the shape (1, 8, 3, 3), expected (1, 9, 3, 3) for x (1, 5, 7, 9) and 1 kernels.'),
        (
            1,
            (1, 8, 3, 0),
            'weight is (1, 8, 3, 0), expected (K, e, rows, columns) with at least one row and column.',
        ),
        (1, (1, 8, 3, 1), 'the attribute left contains 1, expected 0 to 0 for weight (1, 8, 3, 1).'),
        (2, (1, 7), 'bias has the shape (1, 7), expected (1, 8) for x (1, 5, 7, 8) and 1 kernels.'),
    ],
)
def test_wrong_convolution_inputs_raise_one_sentence(index, shape, message):
    tensors = [torch.randn(1, 5, 7, 8), torch.randn(1, 8, 3, 3), torch.randn(1, 8)]
    assert error_of(convolve, edited(tensors, index, shape), [1]) == f'mmvmamba::ConvSiLU: {message}'


@pytest.mark.parametrize(
    'index, shape, message',
    [
        (0, (), 'x is (), expected 1 to 5 dimensions and at least one channel.'),
        (0, (2, 0), 'x is (2, 0), expected 1 to 5 dimensions and at least one channel.'),
        (0, (1,) * 6, 'x is of rank 6, expected 1 to 5 dimensions and at least one channel.'),
        (1, (7,), 'weight has the shape (7,), expected (8,) for x (2, 8).'),
        (3, (1, 8), 'residual has the shape (1, 8), expected (2, 8) for x.'),
        (4, (1, 8), 'bias has the shape (1, 8), expected (8,) for x (2, 8).'),
    ],
)
def test_wrong_norm_inputs_raise_one_sentence(index, shape, message):
    tensors = [torch.zeros(size) for size in ((2, 8), (8,), (8,), (2, 8), (8,))]
    assert error_of(norm, edited(tensors, index, shape), False) == f'mmvmamba::AddNorm: {message}'


def test_norm_with_an_unnecessary_sum_raises_one_sentence():
    found = error_of(norm, [torch.zeros(2, 8), torch.zeros(8), None, None, None], False, with_sum=True)
    assert found == 'mmvmamba::AddNorm: the node has the output sum, but nothing is added to x.'


@pytest.mark.parametrize('attributes, message', WRONG_ATTRIBUTES)
def test_wrong_attributes_are_rejected_when_the_session_opens(attributes, message):
    inputs, codes, _ = scan_case()
    model = node_model(SCAN, inputs, **{'codes': codes, 'softplus': 1} | attributes)
    with pytest.raises(Exception, match=re.escape(f'mmvmamba::SelectiveScan2D: {message}')):
        session(model)
    if 'version' in attributes:
        with pytest.raises(Exception, match=re.escape(f'mmvmamba::ConvSiLU: {message}')):
            session(node_model(CONV, [torch.empty(1)] * 3, left=[1], **attributes))


def test_another_type_is_rejected_when_the_session_opens():
    inputs, codes, _ = scan_case()
    model = node_model(SCAN, inputs, codes=codes, softplus=1, types=dict(x=TensorProto.DOUBLE))
    with pytest.raises(
        Exception, match=r"Type 'tensor\(double\)' of input parameter \(x\) of operator \(SelectiveScan"
    ):
        session(model)


def test_session_without_the_library_names_the_operator():
    inputs, codes, _ = scan_case()
    model = node_model(SCAN, inputs, codes=codes, softplus=1)
    with pytest.raises(Exception, match=r'mmvmamba:SelectiveScan2D\(-1\) is not a registered function/op'):
        onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])


@contextmanager
def limited_memory(megabytes):
    """Limits the address space of this process to its current size and some more."""
    resource = pytest.importorskip('resource')
    limits, pages = resource.getrlimit(resource.RLIMIT_AS), int(Path('/proc/self/statm').read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs Linux')
def test_lack_of_memory_raises_an_error():
    """The scan pads one channel to 16, in 256 MiB; the convolution prepares 256 tiles with a halo of 63, in 350 MiB."""
    size = (1, 1, 2048, 2048, 1)
    inputs = [torch.zeros(shape) for shape in (size[1:], (*size[:-1], 3), (1, 1, 1))] + [None] * 3
    opened = session(node_model(SCAN, inputs, codes=[0], softplus=1))
    feed = {name: t.numpy() for name, t in zip(SCAN[1], inputs) if t is not None}
    with limited_memory(150), pytest.raises(Exception, match='mmvmamba::SelectiveScan2D: not enough memory for'):
        opened.run(None, feed)
    tensors = [torch.zeros(1, 1024, 256, 1), torch.zeros(1, 1, 64, 64), None]
    opened = session(node_model(CONV, tensors, left=[0]))
    feed = {name: t.numpy() for name, t in zip(CONV[1], tensors) if t is not None}
    with limited_memory(150), pytest.raises(Exception, match='mmvmamba::ConvSiLU: not enough memory for'):
        opened.run(None, feed)


class OrtApiBase(ctypes.Structure):
    """The C struct of the same name, of an onnxruntime without the functions of version 17."""

    GET_API = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    GET_VERSION = ctypes.CFUNCTYPE(ctypes.c_void_p)
    CREATE_STATUS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    _fields_ = [('get_api', GET_API), ('get_version', GET_VERSION)]

    def __init__(self):
        self.messages, self.version = [], ctypes.create_string_buffer(b'1.16.3')
        self.functions = (self.CREATE_STATUS * 1)(self.CREATE_STATUS(self._create_status))
        super().__init__(self.GET_API(self._get_api), self.GET_VERSION(lambda: ctypes.addressof(self.version)))

    def _get_api(self, version):
        return ctypes.addressof(self.functions) if version <= 16 else None

    def _create_status(self, code, message):
        self.messages.append(message.decode())
        return 1


def test_older_onnxruntime_is_rejected_by_name():
    base = OrtApiBase()
    assert ctypes.CDLL(custom_op_library()).RegisterCustomOps(None, ctypes.byref(base))
    assert base.messages == ['mmvmamba: the operators need onnxruntime 1.17 or later, this is 1.16.3.']


def test_random_shapes_return_the_right_result_or_one_sentence():
    draw = random.Random(0)
    outcomes = [run_case(draw, threads=2) for _ in range(500)]
    assert 150 < outcomes.count('refused') < 350


def test_library_needs_neither_openmp_nor_python():
    done = subprocess.run(['ldd', custom_op_library()], capture_output=True, text=True)
    assert done.returncode == 0
    assert {line.split()[0].split('.')[0].rpartition('/')[2] for line in done.stdout.splitlines()} <= {
        'linux-vdso',
        'libc',
        'libm',
        'libpthread',
        'ld-linux-x86-64',
        'ld-linux-aarch64',
    }
    assert b'GOMP' not in Path(custom_op_library()).read_bytes()


def test_missing_library_raises_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(custom_op_library.__globals__, 'LIBRARY', tmp_path / 'none.so')
    with pytest.raises(FileNotFoundError, match=r'not built: none\.so is missing in .*; install mmvmamba from source'):
        custom_op_library()
