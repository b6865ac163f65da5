"""Folders with one subfolder per class, with or without parts: found and labelled.

Flow: `read_folder(folder, suffixes, read)` -> `Parts`. Either `folder/CLASS/file`, or `folder/train/CLASS/file` with
`test` and `calibration` (also called `val`, `valid` or `validation`) beside `train`. Classes are numbered in the order
of their names. Does not: read a picture or a sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from ..clients.wire import Array
from .datasets import DataError, Labelled, Parts

TRAIN, TEST = "train", "test"
CALIBRATION = ("calibration", "val", "valid", "validation")
# What lies in folders without being data.
IGNORED = frozenset({"thumbs.db", "desktop.ini", "readme.md", "readme.txt", "license", "license.txt"})


def read_folder(folder: Path, suffixes: Collection[str], read: Callable[[Sequence[Path]], Array]) -> Parts:
    """Read all parts.

    Args:
        suffixes: of the files that count, lower case, with the dot.
        read: gets files in order, gives an array of as many rows.
    Raises:
        DataError: a class is in one part only, or a file is of another kind.
    """
    parts = {path.name: path for path in _subfolders(folder)}
    if TRAIN not in parts:
        everything, classes = _read_part(folder, suffixes, read, None)
        return Parts(everything, classes=classes)
    train, classes = _read_part(parts[TRAIN], suffixes, read, None)
    held = {
        name: _read_part(path, suffixes, read, classes)[0]
        for name, path in parts.items()
        if name == TEST or name in CALIBRATION
    }
    strange = sorted(set(parts) - {TRAIN, *held})
    if strange:
        raise DataError(
            f"{folder / strange[0]} is no part of a data set; beside `train` may lie `test` and `calibration`"
        )
    return Parts(train, next((held[name] for name in CALIBRATION if name in held), None), held.get(TEST), classes)


def first_suffix(folder: Path) -> str:
    """The suffix, lower case, of the first file below one or two levels of folders; empty where there is none."""
    for first in _subfolders(folder):
        for place in (first, *_subfolders(first)[:1]):
            for path in _files(place):
                return path.suffix.lower()
    return ""


def _read_part(
    folder: Path, suffixes: Collection[str], read: Callable[[Sequence[Path]], Array], classes: tuple[str, ...] | None
) -> tuple[Labelled, tuple[str, ...]]:
    names = tuple(path.name for path in _subfolders(folder))
    known = names if classes is None else classes
    strange = sorted(set(names) - set(known))
    if strange:
        raise DataError(
            f"{folder / strange[0]}: the training part has no class of this name; it has {', '.join(known[:8])}"
        )
    files, labels = [], []
    for label, name in enumerate(known):
        for path in _files(folder / name):
            if path.suffix.lower() not in suffixes:
                raise DataError(f"{path} is not one of {', '.join(sorted(suffixes))}, as the others are; take it away")
            files.append(path)
            labels.append(label)
    if not files:
        raise DataError(f"{folder} holds no files in folders of classes")
    return Labelled(read(files), np.array(labels, np.int64)), known


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path.name.lower() not in IGNORED)
