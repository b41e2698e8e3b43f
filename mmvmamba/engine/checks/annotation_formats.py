"""Safe readers for the annotation formats whose readers in mmengine can execute code in the file: pickle and YAML.

mmengine selects the reader by the suffix (.pkl, .pickle, .yml, .yaml). Here, YAML is read as data, and pickles are
rejected unless the user trusts them. Writing does not change.
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
    """Context manager that sets whether annotation files may execute code, for the whole process."""
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
    """Rejects a file that can execute code when it is read, unless the user trusts it.

    Raises:
        DataError: names the file and the option.
    """
    if not _trusted:
        raise DataError(
            f'{path} is {what}, which can execute code when it is read: save it in another format, such as JSON, or '
            f'pass {OPTION} if you trust its author'
        )


def check_array(path: str | Path) -> None:
    """Rejects a NumPy file that contains pickled objects, unless the user trusts it."""
    try:
        np.load(path, mmap_mode='r', allow_pickle=False)
    except OSError:
        return  # the reader reports it
    except ValueError:
        check_trusted(path, 'a NumPy file with pickled objects')


class CheckedPickles(PickleHandler):
    """PickleHandler of mmengine that loads only trusted files."""

    def load_from_fileobj(self, file: Any, **kwargs) -> Any:
        check_trusted(getattr(file, 'name', last_read()), 'a pickle')
        return super().load_from_fileobj(file, **kwargs)


class SafeYaml(YamlHandler):
    """YamlHandler of mmengine that only reads data: numbers, strings, dates, lists and dicts."""

    def load_from_fileobj(self, file: Any, **kwargs) -> Any:
        if _trusted:
            return super().load_from_fileobj(file, **kwargs)
        try:
            return yaml.load(file, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
        except yaml.constructor.ConstructorError as error:
            problem = ' '.join(str(error.problem).split())
            check_trusted(getattr(file, 'name', last_read()), f'YAML that contains more than data ({problem})')
            raise
