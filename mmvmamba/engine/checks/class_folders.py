"""Compares the folders of a classification dataset with its class names."""

import os
from collections.abc import Sequence
from pathlib import Path

from .quoting import listed


def folder_fault(folder: str | Path, classes: Sequence[str]) -> str | None:
    """Returns a sentence if the folders do not fit the classes, else None.

    mmpretrain numbers the folders in sorted order and does not compare their names. Other names, such as those of
    ImageNet's folders, are allowed if no folder has the name of a class.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return None  # reading the dataset reports it
    if not names:
        return f'{folder} has no folders, but needs one for each of the classes {listed(classes)}'
    if len(names) == len(classes):
        folded, expected = [name.casefold() for name in names], [name.casefold() for name in classes]
        if folded == expected or not set(folded) & set(expected):
            return None
        if sorted(folded) == sorted(expected):
            return (
                f'{folder} has the folders {listed(names)}, in which order mmpretrain numbers them, but the classes '
                f'are {listed(classes)}: write the classes in the order of the folders'
            )
    missing, unknown = ([name for name in a if name not in b] for a, b in ((classes, names), (names, classes)))
    details = [f'no folder for {listed(missing)}'] * bool(missing) + [f'no class for {listed(unknown)}'] * bool(unknown)
    return (
        f'{folder} has the folders {listed(names)}, but the classes are {listed(classes)}: there is '
        f'{" and ".join(details)}'
    )


def folder_warning(folder: str | Path, classes: Sequence[str]) -> str | None:
    """Returns a sentence if the folders fit the classes in number, but no folder has the name of a class, else None."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names or {name.casefold() for name in names} & {name.casefold() for name in classes}:
        return None
    return (
        f'{folder} has the folders {listed(names)}, but the classes are {listed(classes)}: the first folder is called '
        f'{classes[0]}, and so on. To use the names of the folders, write them into `classes`'
    )
