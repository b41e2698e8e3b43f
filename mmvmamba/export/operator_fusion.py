"""Rewrites a graph with the operators of mmvmamba so that it copies no map, and adds while it normalises.

The results are the same, except for rounding.
"""

# onnxscript builds nodes and patterns from attributes that its types do not declare.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import onnx_ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.pattern import OrValue, RewriteRuleClassBase

from .onnx_operators import DOMAIN, VERSION


def fuse_operators(model: onnx_ir.Model) -> None:
    """Applies all rules to the model, in place."""
    for rules in _RULES:
        RewriteRuleSet(rules).apply_to_model(model)
        IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    model.opset_imports.setdefault(DOMAIN, 1)


def _is_vector(value: onnx_ir.Value) -> bool:
    """Whether it is a weight with one value per channel."""
    return value.const_value is not None and len(value.const_value.shape) == 1


def _same_shape(x: onnx_ir.Value, y: onnx_ir.Value) -> bool:
    return x.shape is not None and y.shape is not None and tuple(x.shape) == tuple(y.shape)


class _PartsOfOneMap(RewriteRuleClassBase):
    """dt, B and C are split from one map, (b, K, H, W, c): the scan reads the map."""

    def pattern(self, op, projected, sizes):
        dt, B, C = op.Split(projected, sizes, axis=4, _outputs=3)
        return op.Concat(dt, B, C, axis=-1)

    def rewrite(self, op, projected, sizes):
        return op.Identity(projected)


class _MapsSideBySide(RewriteRuleClassBase):
    """The map was transposed from (b, H, W, K * c): the scan reads both layouts."""

    def pattern(self, op, x, side_by_side, shape):
        projected = op.Transpose(op.Reshape(side_by_side, shape, _allow_other_attributes=True), perm=[0, 3, 1, 2, 4])
        return op.SelectiveScan2D(
            x, projected, _domain=DOMAIN, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=['y']
        )

    def check(self, context, side_by_side, **_):
        return side_by_side.shape is not None and len(side_by_side.shape) == 4

    def rewrite(self, op, x, side_by_side, y, **_):
        scan = y.producer()
        return op.SelectiveScan2D(x, side_by_side, *scan.inputs[2:], _domain=DOMAIN, **scan.attributes)


class _SelectOfSizeOne(RewriteRuleClassBase):
    """The only element of an axis is a view, which Gather would copy."""

    def pattern(self, op, x):
        return op.Gather(x, 0, _outputs=['selected'])

    def check(self, context, x, selected):
        axis = selected.producer().attributes.get_int('axis', 0)
        return x.shape is not None and len(x.shape) > axis and x.shape[axis] == 1

    def rewrite(self, op, x, selected):
        axis = selected.producer().attributes.get_int('axis', 0)
        return op.Squeeze(x, op.Constant(value_ints=[axis]))


class _SqueezeAndUnsqueeze(RewriteRuleClassBase):
    """Either order keeps the shape."""

    def __init__(self, first: str, second: str):
        super().__init__()
        self.first, self.second = first, second

    def pattern(self, op, x, axes, same_axes):
        return getattr(op, self.second)(getattr(op, self.first)(x, axes), same_axes)

    def check(self, context, axes, same_axes, **_):
        constants = axes.const_value, same_axes.const_value
        return None not in constants and constants[0].numpy().tolist() == constants[1].numpy().tolist()

    def rewrite(self, op, x, **_):
        return op.Identity(x)


class _BiasGelu(RewriteRuleClassBase):
    def pattern(self, op, x, bias):
        return op.Gelu(op.Add(x, bias), approximate='none')

    def check(self, context, bias, **_):
        return _is_vector(bias)

    def rewrite(self, op, x, bias):
        return op.BiasGelu(x, bias, version=VERSION, _domain=DOMAIN)


class _Norm(RewriteRuleClassBase):
    """A layer norm or an RMS norm in its decomposed form, as AddNorm that adds nothing."""

    def pattern(self, op, x, weight, shift):
        return op.LayerNormalization(x, weight, shift, axis=-1, _allow_other_attributes=True, _outputs=['y'])

    def rewrite(self, op, x, weight, shift, y):
        epsilon = y.producer().attributes['epsilon'].as_float()
        return op.AddNorm(x, weight, shift, epsilon=epsilon, rms=0, version=VERSION, _domain=DOMAIN)


class _RMSNorm(RewriteRuleClassBase):
    def pattern(self, op, x, weight, epsilon, axes):
        mean = op.ReduceMean(op.Pow(x, 2.0), axes, keepdims=1, _allow_other_attributes=True)
        return op.Mul(op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon)))), weight)

    def check(self, context, x, weight, epsilon, axes):
        last = axes.const_value is not None and axes.const_value.numpy().tolist() in ([-1], [len(x.shape) - 1])
        return last and _is_vector(weight) and epsilon.const_value is not None

    def rewrite(self, op, x, weight, epsilon, axes):
        epsilon = float(epsilon.const_value.numpy())
        return op.AddNorm(x, weight, epsilon=epsilon, rms=1, version=VERSION, _domain=DOMAIN)


class _AddBeforeNorm(RewriteRuleClassBase):
    """A residual connection before the norm. The sum remains an output, because the next one adds to it."""

    def pattern(self, op, x, residual, weight):
        sum = OrValue([op.Add(residual, x), op.Add(x, residual)])
        y = op.AddNorm(
            sum, weight, _domain=DOMAIN, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=['y']
        )
        return y, sum

    def check(self, context, x, residual, y, **_):
        return _same_shape(x, residual)

    def rewrite(self, op, x, residual, weight, y, **_):
        norm = y.producer()
        shift = norm.inputs[2] if len(norm.inputs) > 2 else None
        return op.AddNorm(x, weight, shift, residual, **norm.attributes, _outputs=2, _domain=DOMAIN)


class _BiasBeforeNorm(RewriteRuleClassBase):
    """The bias of the linear layer before a residual connection."""

    def pattern(self, op, x, bias, weight, shift, residual):
        return op.AddNorm(
            op.Add(x, bias),
            weight,
            shift,
            residual,
            _domain=DOMAIN,
            _allow_other_attributes=True,
            _outputs=['y', 'sum'],
        )

    def check(self, context, bias, **_):
        return _is_vector(bias)

    def rewrite(self, op, x, bias, weight, shift, residual, y, **_):
        attributes = y.producer().attributes
        return op.AddNorm(x, weight, shift, residual, bias, **attributes, _outputs=2, _domain=DOMAIN)


_RULES = (
    (_PartsOfOneMap.rule(), _SelectOfSizeOne.rule()),
    (_SqueezeAndUnsqueeze.rule('Squeeze', 'Unsqueeze'), _SqueezeAndUnsqueeze.rule('Unsqueeze', 'Squeeze')),
    (_MapsSideBySide.rule(), _BiasGelu.rule(), _Norm.rule(), _RMSNorm.rule()),
    (_AddBeforeNorm.rule(),),
    (_BiasBeforeNorm.rule(),),
)
