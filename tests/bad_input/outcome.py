"""How a call with drawn arguments ended: right, refused in one sentence of ours, or neither."""

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
    """A call, and how it may end.

    Attributes:
        kind: what is called, for the table.
        call: without arguments.
        right: looks at the call's result; AssertionError if it is wrong.
        drawn: what was drawn, for the report.
        names: a refusal has to name one of these.
        refuse: whether only a refusal will do.
    """

    kind: str
    call: Callable[[], Any]
    right: Callable[[Any], None]
    drawn: str
    names: Iterable[str] = ()
    refuse: bool = False

    def run(self) -> tuple[str, str]:
        """'right' or 'refused', and what is wrong with that, '' if nothing is."""
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
    """What keeps an exception from being a refusal of ours; '' if nothing does.

    It is ours if a `raise` statement of the package raised it, which no error of an operator inside a call of ours is.
    """
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename)
    text = f'{type(error).__name__} at {file.name}:{line}: {error}'
    if PACKAGE not in file.parents or not any(line in lines for lines in raise_statements(file)):
        return f'not raised by the package: {text}'
    if type(error) not in REFUSALS:
        return f'not a type for refusals: {text}'
    end = '' if isinstance(error, CheckpointError) else r'\.'  # the tools print those behind their own name
    if not re.fullmatch(r'[^\n]{15,500}' + end, str(error)) or re.search(r'\. [A-Z]', str(error)):
        return f'not one sentence: {text}'
    if names and type(error) is ValueError and not any(re.search(rf'\b{name}s?\b', str(error)) for name in names):
        return f'names none of {", ".join(names)}: {text}'
    return ''


@cache
def raise_statements(file: Path) -> list[range]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [range(node.lineno, node.end_lineno + 1) for node in nodes if isinstance(node, ast.Raise)]
