"""The device that a storage is restored on, as `map_location` of `torch.load` chooses it."""

from collections.abc import Callable

import torch
from torch.serialization import default_restore_location

from .errors import CheckpointError, reason_of

MapLocation = str | torch.device | dict[str, str] | Callable[[torch.UntypedStorage, str], torch.UntypedStorage] | None


def check_map_location(map_location: MapLocation) -> None:
    """
    Raises:
        CheckpointError: not a device of this machine.
    """
    if not isinstance(map_location, (str, torch.device)):
        return
    try:
        torch.empty(0, device=map_location)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"map_location={str(map_location)!r} is not a device of this machine ({reason_of(error)}): use 'cpu'"
        ) from error


def restore(content: torch.UntypedStorage, location: str, map_location: MapLocation) -> torch.UntypedStorage:
    """Moves a storage from the CPU to its device.

    Args:
        content: on the CPU.
        location: where it was when it was saved, such as 'cuda:0'.
        map_location: a device for all storages, a dict from saved to new devices, or a function of storage and
            location. None, or None from the function, stands for the saved location.

    Raises:
        CheckpointError: the device does not exist on this machine, or the function fails.
    """
    try:
        if callable(map_location):
            moved = map_location(content, location)
            if isinstance(moved, torch.UntypedStorage):
                return moved
        elif isinstance(map_location, dict):
            location = str(map_location.get(location, location))
        elif map_location is not None:
            location = str(map_location)
        return default_restore_location(content, location)  # pyright: ignore[reportReturnType]  (of the same class)
    except Exception as error:  # a function of the user can raise any error
        raise CheckpointError(
            f'a tensor that was saved on {location!r} cannot be moved by map_location ({reason_of(error)}): '
            "pass map_location='cpu'"
        ) from error
