"""Models with a single operator for onnxruntime, whose inputs have any shape."""

import onnxruntime
import torch
from onnx import TensorProto, helper

from mmvmamba.export import custom_op_library
from mmvmamba.export.onnx_operators import VERSION

SCAN = ('SelectiveScan2D', ('x', 'projected', 'A', 'D', 'dt_bias', 'dt_weight'))
CONV = ('ConvSiLU', ('x', 'weight', 'bias'))
GELU = ('BiasGelu', ('x', 'bias'))
NORM = ('AddNorm', ('x', 'weight', 'shift', 'residual', 'bias'))

# Attributes of the scan, and the errors of the operators.
WRONG_ATTRIBUTES = [
    (
        dict(version=1),
        'the file contains version 1 of this operator, but the library implements version 2; export the model '
        'again, or use the library of the mmvmamba that exported it.',
    ),
    (dict(version='1'), 'the attribute version is missing or not an integer; export the model again.'),
    (dict(codes=None), 'the attribute codes must be a list of at least one integer.'),
    (dict(codes=[0, 1, 2, 4]), 'the attribute codes contains 4, expected 0 to 3.'),
    (dict(softplus=None), 'the attribute softplus is missing or not an integer.'),
]


def node_model(operator, tensors, shapes=None, types=None, outputs=('y',), **attributes):
    """Returns the bytes of a model. `tensors` are the inputs in order, None for a missing one."""
    name, inputs = operator
    present = [i for i, t in zip(inputs, tensors) if t is not None]
    node = helper.make_node(
        name,
        [i if i in present else '' for i in inputs],
        outputs,
        domain='mmvmamba',
        **{'version': VERSION} | {key: value for key, value in attributes.items() if value is not None},
    )
    graph = helper.make_graph(
        [node],
        'graph',
        [
            helper.make_tensor_value_info(i, (types or {}).get(i, TensorProto.FLOAT), (shapes or {}).get(i))
            for i in present
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
    )
    opsets = [helper.make_opsetid('', 20), helper.make_opsetid('mmvmamba', 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def session(model, threads=1, library=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, too
    options.register_custom_ops_library(library or custom_op_library())
    return onnxruntime.InferenceSession(model, options, ['CPUExecutionProvider'])


def run(model, operator, tensors, threads=1, library=None):
    """Returns the output, or the list of outputs if there are several."""
    feed = {i: t.contiguous().numpy() for i, t in zip(operator[1], tensors) if t is not None}
    outputs = [torch.from_numpy(y) for y in session(model, threads, library).run(None, feed)]
    return outputs if len(outputs) > 1 else outputs[0]


def scan_tensors(x, dt, A, B, C, D, dt_bias, dt_weight, side_by_side=False):
    """Converts the inputs of the PyTorch operator to those of the node."""
    projected = torch.cat([dt, B, C], -1)  # (b, K, H, W, c)
    if side_by_side:
        projected = projected.permute(0, 2, 3, 1, 4).flatten(3)
    return [x, projected, A, D, dt_bias, dt_weight]


def scan(tensors, codes, softplus, **options):
    return run(node_model(SCAN, tensors, codes=codes, softplus=int(softplus)), SCAN, tensors, **options)


def convolve(tensors, left, **options):
    """Returns (b, K, H, W, e) also for one kernel."""
    y = run(node_model(CONV, tensors, left=left), CONV, tensors, **options)
    return y if len(left) > 1 else y.unsqueeze(1)


def gelu(tensors, **options):
    return run(node_model(GELU, tensors), GELU, tensors, **options)


def norm(tensors, rms, with_sum=False, **options):
    outputs = ('y', 'sum') if with_sum else ('y',)
    model = node_model(NORM, tensors, outputs=outputs, rms=int(rms), epsilon=1e-5)
    return run(model, NORM, tensors, **options)
