"""Models with a single operator for onnxruntime, whose inputs have any shape."""

import onnxruntime
import torch
from onnx import TensorProto, helper

from mmvmamba.export import custom_op_library
from mmvmamba.export.onnx_operators import VERSION

SCAN = ('SelectiveScan2D', ('x', 'dt', 'A', 'B', 'C', 'D', 'dt_bias', 'dt_weight'))
CONV = ('ConvSiLU', ('x', 'weight', 'bias'))


def node_model(operator, tensors, shapes=None, out_shape=None, types=None, **attributes):
    """Returns the bytes of a model. `tensors` are the inputs in order, None for a missing one."""
    name, inputs = operator
    present = [i for i, t in zip(inputs, tensors) if t is not None]
    node = helper.make_node(
        name,
        [i if i in present else '' for i in inputs],
        ['y'],
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
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, out_shape)],
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
    feed = {i: t.contiguous().numpy() for i, t in zip(operator[1], tensors) if t is not None}
    [y] = session(model, threads, library).run(None, feed)
    return torch.from_numpy(y)


def scan(tensors, codes, softplus, **options):
    return run(node_model(SCAN, tensors, codes=codes, softplus=int(softplus)), SCAN, tensors, **options)


def convolve(tensors, left, **options):
    return run(node_model(CONV, tensors, left=left), CONV, tensors, **options)
