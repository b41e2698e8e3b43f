"""Imports of optional packages. A package that is broken, or built for another PyTorch, may raise any exception."""

from importlib import import_module


def import_failure(*modules: str) -> Exception | None:
    """Imports the modules. Returns the exception of the first import that fails, or None."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:
        return error
    return None


def in_one_line(error: Exception) -> str:
    """The type of an exception and its message, without line breaks and limited to 200 characters."""
    message = ' '.join(str(error).split())
    message = message if len(message) <= 200 else f'{message[:200]}...'
    return f'{type(error).__name__}: {message}' if message else type(error).__name__
