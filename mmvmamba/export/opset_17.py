"""Conversion of an ONNX model from opset 18 to opset 17, for older runtimes such as TensorRT 8."""

from onnx_ir import AttrInt64s, Model, Node
from onnx_ir.passes.common import RemoveUnusedNodesPass


def to_opset_17(model: Model) -> None:
    """Changes a model in place. onnx and onnxscript cannot convert these operators to opset 17.

    Raises:
        ValueError: an operator cannot be converted.
    """
    for node in model.graph.all_nodes():
        if node.domain:
            continue
        if node.op_type == 'Split':
            node.attributes.pop('num_outputs', None)  # without it, opset 17 also splits evenly
        elif node.op_type.startswith('Reduce') and node.op_type != 'ReduceSum':
            _axes_to_attribute(node)
        elif node.op_type == 'Resize':
            for name, default in (('antialias', 0), ('keep_aspect_ratio_policy', 'stretch'), ('axes', None)):
                attribute = node.attributes.pop(name, None)
                if attribute is not None and attribute.value != default:
                    raise ValueError(f'{node.op_type} with {name}={attribute.value} needs --opset 18 or newer.')
    RemoveUnusedNodesPass()(model)  # the axes that are attributes now
    model.opset_imports[''] = 17


def _axes_to_attribute(node: Node) -> None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None  # all axes
    if axes is not None:
        if axes.const_value is None:
            raise ValueError(f'{node.op_type} {node.name} without constant axes needs --opset 18 or newer.')
        node.attributes.add(AttrInt64s('axes', axes.const_value.numpy().tolist()))
    node.resize_inputs(1)
    node.attributes.pop('noop_with_empty_axes', None)
