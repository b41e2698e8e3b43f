"""The config that mmengine saves in a checkpoint, read without executing it."""

import ast
from collections.abc import Iterator
from typing import Any

LONGEST = 1_000_000  # characters; configs of the libraries have about 20,000


def parse_config(text: Any) -> dict[str, Any]:
    """Returns the variables in `Config.pretty_text`, or an empty dict if the text is not a config.

    Dicts, lists and constants become values. Other expressions stay text.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        return {}
    try:
        return {
            statement.targets[0].id: _value(statement.value)
            for statement in ast.parse(text).body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def differences(old: Any, new: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, old value, new value) for each setting that differs.

    Lists with different lengths and dicts with different types differ as a whole.

    Args:
        old, new: values from `parse_config`.
        name: of the setting, `train_dataloader` for example; parts are named as `--cfg-options` names them.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get('type') == new.get('type'):
        for key in {**new, **old}:
            yield from differences(old.get(key, UNSET), new.get(key, UNSET), f'{name}.{key}')
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (first, second) in enumerate(zip(old, new)):
            yield from differences(first, second, f'{name}.{index}')
    elif old != new:
        yield name, old, new


class _Unset:
    def __repr__(self) -> str:
        return 'not set'


UNSET = _Unset()


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand)
        if isinstance(operand, (int, float)):
            return -operand
    return ast.unparse(node)
