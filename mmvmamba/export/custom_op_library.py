"""Locates the library with mmvmamba's operators for onnxruntime."""

from pathlib import Path

LIBRARY = Path(__file__).with_name('native') / 'onnxruntime_ops.so'


def custom_op_library() -> str:
    """Returns the path of the library, for `onnxruntime.SessionOptions.register_custom_ops_library`.

    The library depends on neither Python nor mmvmamba, so it can be copied to where the model runs.

    Raises:
        FileNotFoundError: the library was not built with mmvmamba.
    """
    if not LIBRARY.exists():
        raise FileNotFoundError(
            f'The operators for onnxruntime are not built: {LIBRARY.name} is missing in {LIBRARY.parent}; '
            'install mmvmamba from source with a C compiler (gcc or clang) on the path.'
        )
    return str(LIBRARY)
