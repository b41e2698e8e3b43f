"""Formats of annotation files whose readers in mmengine run code that the file names: pickle and YAML.

mmengine chooses the reader by the end of the name (.pkl, .pickle, .yml, .yaml). Here YAML is read as data, and pickles
are rejected unless the user trusts them; writing stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from ..errors import DataError
from .last_read import last_read

OPTION = '--trust-annotations'

_trusted = False


@contextmanager
def trust_annotations(trust: bool) -> Iterator[None]:
    """Whether annotation files may run code, inside the block and for the whole process."""
    before = _trusted
    set_trust(trust)
    try:
        yield
    finally:
        set_trust(before)


def set_trust(trust: bool) -> None:
    global _trusted
    _trusted = trust


def trusts_annotations() -> bool:
    return _trusted


def check_trusted(path: str | Path, what: str) -> None:
    """Rejects a file whose reading runs code, unless the user trusts it.

    Raises:
        DataError: names the file and the option.
    """
    if not _trusted:
        raise DataError(
            f'{path} is {what}, and reading it runs the code that it names: save it in another format, as JSON for '
            f'instance, or pass {OPTION} if you trust its author'
        )


def check_array(path: str | Path) -> None:
    """Rejects a NumPy file that holds pickled objects, unless the user trusts it."""
    try:
        np.load(path, mmap_mode='r', allow_pickle=False)
    except OSError:
        return  # the reader says why
    except ValueError:
        check_trusted(path, 'a NumPy file of pickled objects')


class CheckedPickles(PickleHandler):
    """mmengine's handler of pickles, which loads none that is not trusted."""

    def load_from_fileobj(self, file: Any, **kwargs) -> Any:
        check_trusted(getattr(file, 'name', last_read()), 'a pickle')
        return super().load_from_fileobj(file, **kwargs)


class SafeYaml(YamlHandler):
    """mmengine's handler of YAML, which reads data: numbers, strings, dates, lists and dicts."""

    def load_from_fileobj(self, file: Any, **kwargs) -> Any:
        if _trusted:
            return super().load_from_fileobj(file, **kwargs)
        try:
            return yaml.load(file, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
        except yaml.constructor.ConstructorError as error:
            problem = ' '.join(str(error.problem).split())
            check_trusted(getattr(file, 'name', last_read()), f'YAML of more than data ({problem})')
            raise
