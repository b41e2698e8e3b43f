"""Classifies the outcome of a fuzzed call: correct result, one-sentence error of this package, or failure."""

import ast
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mmvmamba
from mmvmamba.checkpoint import CheckpointError

PACKAGE = Path(mmvmamba.__file__).parent
REFUSALS = (ValueError, CheckpointError)


@dataclass
class Case:
    """A call and its permitted outcomes.

    Attributes:
        kind: name of the called function or class, for the summary table.
        call: function without arguments that makes the call.
        right: checks the result of the call; raises AssertionError if it is wrong.
        drawn: description of the drawn arguments, for the report.
        names: the error message must contain one of these names.
        refuse: whether the call must raise an error.
    """

    kind: str
    call: Callable[[], Any]
    right: Callable[[Any], None]
    drawn: str
    names: Iterable[str] = ()
    refuse: bool = False

    def run(self) -> tuple[str, str]:
        """Returns 'right' or 'refused', and a description of the failure ('' if there is none)."""
        try:
            result = self.call()
        except Exception as error:
            return 'refused', complaint(error, self.names)
        if self.refuse:
            return 'right', 'accepted'
        try:
            self.right(result)
        except AssertionError as error:
            return 'right', f'wrong result: {str(error) or traceback.format_exc()}'
        return 'right', ''


def complaint(error: Exception, names: Iterable[str]) -> str:
    """Returns why an exception is not a valid error of this package, or '' if it is valid.

    An exception is valid only if a `raise` statement of this package raised it, not an operator that it calls.
    """
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename)
    text = f'{type(error).__name__} at {file.name}:{line}: {error}'
    if PACKAGE not in file.parents or not any(line in lines for lines in raise_statements(file)):
        return f'not raised by the package: {text}'
    if type(error) not in REFUSALS:
        return f'not a type for refusals: {text}'
    end = '' if isinstance(error, CheckpointError) else r'\.'  # the tools print these errors after their own name
    if not re.fullmatch(r'[^\n]{15,500}' + end, str(error)) or re.search(r'\. [A-Z]', str(error)):
        return f'not one sentence: {text}'
    if names and type(error) is ValueError and not any(re.search(rf'\b{name}s?\b', str(error)) for name in names):
        return f'names none of {", ".join(names)}: {text}'
    return ''


@cache
def raise_statements(file: Path) -> list[range]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [range(node.lineno, node.end_lineno + 1) for node in nodes if isinstance(node, ast.Raise)]
