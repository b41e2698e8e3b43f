"""Why an optional package cannot be imported: one that is damaged, or built for another PyTorch, raises anything."""

from importlib import import_module


def import_failure(*modules: str) -> Exception | None:
    """Imports the modules; returns what the first failing import raised, None if all succeed."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:
        return error
    return None


def in_one_line(error: Exception) -> str:
    """The type of an error and its message without line breaks, cut after 200 characters."""
    message = ' '.join(str(error).split())
    message = message if len(message) <= 200 else f'{message[:200]}...'
    return f'{type(error).__name__}: {message}' if message else type(error).__name__
