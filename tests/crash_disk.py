"""A disk that fails, fills up or loses its power at any one call, and everything a power cut may leave of it.

Role: `CrashDisk` stands in for the module `os` in the code under test: it passes every call on to the real one, counts
those that touch the disk, and at the n-th raises an error, cuts a write short, or dies (`PowerCut`: nothing that the
writer would still do happens). Meanwhile it keeps book of what has been synced. `after_power_cut` gives every state it
considers possible: of what was not synced, names may be there in any prefix of their order or each alone, and content
as nothing, a part, zeros or all of it (Pillai et al., OSDI 2014, list which file systems do which of these).
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Fault = Literal["EIO", "ENOSPC", "short", "cut"]
Tree: TypeAlias = "dict[str, bytes | Tree]"
COUNTED = (
    *("open", "write", "pwrite", "read", "pread", "fsync", "fdatasync", "fchmod", "close", "replace", "rename", "link"),
    *("unlink", "mkdir", "listdir", "ftruncate", "fstat"),
)


class PowerCut(BaseException):
    """The process is gone at this call."""


@dataclass(eq=False)
class _File:
    now: bytearray
    synced: bytes = b""
    whole: bool = False


@dataclass(eq=False)
class _Directory:
    now: dict[str, _File | _Directory] = field(default_factory=dict)
    synced: dict[str, _File | _Directory] = field(default_factory=dict)
    # Names set and names gone by each operation since the last sync.
    log: list[tuple[dict[str, _File | _Directory], tuple[str, ...]]] = field(default_factory=list)

    def change(self, put: dict[str, _File | _Directory], gone: tuple[str, ...] = ()) -> None:
        self.log.append((put, gone))
        _apply(self.now, put, gone)


class CrashDisk:
    """In place of `os`, for what happens below `root`, which is taken to be on the disk as it is now."""

    def __init__(self, root: Path, *, fault: Fault | None = None, at: int = -1) -> None:
        self.calls = 0
        self._fault, self._at = fault, at
        self.dead = False
        self._root_path, self._root = root, _load(root)
        self._open: dict[int, _File | _Directory] = {}
        self._handles: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return real if name not in COUNTED else lambda *given, **named: self._call(name, real, *given, **named)

    def _call(self, name: str, real: Any, *given: Any, **named: Any) -> Any:
        if self.dead:
            raise PowerCut
        self.calls += 1
        if self.calls - 1 == self._at:
            given = self._break(name, real, given)
        result = real(*given, **named)
        self._book(name, given, result)
        if self.calls - 1 == self._at and self._fault == "short":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return result

    def _break(self, name: str, real: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._fault == "cut":
            self.dead = True
            for handle in self._handles:
                os.close(handle)
            raise PowerCut
        if self._fault == "short" and name in ("write", "pwrite"):
            return (given[0], bytes(given[1])[: len(given[1]) // 2], *given[2:])
        if name == "close":
            # Linux closes it even where it reports an error.
            real(*given)
            self._handles.discard(given[0])
        code = errno.EIO if self._fault == "EIO" else errno.ENOSPC
        raise OSError(code, os.strerror(code))

    # ---- the books

    def _book(self, name: str, given: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._handles.add(result)
            self._opened(Path(given[0]), given[1], result)
        elif name in ("write", "pwrite"):
            self._wrote(name, given, result)
        elif name == "ftruncate":
            file = self._open.get(given[0])
            if isinstance(file, _File):
                file.now[:] = file.now[: given[1]].ljust(given[1], b"\0")
                file.whole = False
        elif name in ("fsync", "fdatasync"):
            self._synced(given[0])
        elif name == "close":
            self._open.pop(given[0], None)
            self._handles.discard(given[0])
        elif name in ("replace", "rename"):
            here, there = (self._find(Path(path).parent) for path in given[:2])
            assert here is there, "a rename between directories is not modelled"
            if isinstance(here, _Directory):
                source, target = Path(given[0]).name, Path(given[1]).name
                here.change({target: here.now[source]}, (source,))
        elif name == "link":
            here, source_node = self._find(Path(given[1]).parent), self._find(Path(given[0]))
            if isinstance(here, _Directory) and source_node is not None:
                here.change({Path(given[1]).name: source_node})
        elif name in ("unlink", "mkdir"):
            here = self._find(Path(given[0]).parent)
            if isinstance(here, _Directory):
                put: dict[str, _File | _Directory] = {Path(given[0]).name: _Directory()} if name == "mkdir" else {}
                here.change(put, () if put else (Path(given[0]).name,))

    def _opened(self, path: Path, flags: int, handle: int) -> None:
        here = self._find(path.parent)
        if isinstance(here, _Directory) and flags & os.O_CREAT and path.name not in here.now:
            here.change({path.name: _File(bytearray())})
        node = self._find(path)
        if node is not None:
            self._open[handle] = node
            if isinstance(node, _File) and not stat.S_ISREG(os.fstat(handle).st_mode):
                del self._open[handle]

    def _wrote(self, name: str, given: tuple[Any, ...], count: int) -> None:
        file = self._open.get(given[0])
        if isinstance(file, _File):
            size = len(file.now)
            place = given[2] if name == "pwrite" else size
            file.now[size:] = bytes(max(0, place - size))
            file.now[place : place + count] = bytes(given[1])[:count]
            file.whole = False

    def _synced(self, handle: int) -> None:
        node = self._open.get(handle)
        if isinstance(node, _File):
            node.synced, node.whole = bytes(node.now), True
        elif isinstance(node, _Directory):
            node.synced, node.log = dict(node.now), []

    def _find(self, path: Path) -> _File | _Directory | None:
        if path != self._root_path and self._root_path not in path.parents:
            return None
        node: _File | _Directory | None = self._root
        for part in path.relative_to(self._root_path).parts:
            node = node.now.get(part) if isinstance(node, _Directory) else None
        return node

    # ---- what a power cut leaves

    def after_power_cut(self, into: Path) -> Iterator[Path]:
        """Every state considered possible, each made below `into` in its turn."""
        for index, tree in enumerate(_states(self._root)):
            place = into / str(index)
            _make(place, tree)
            yield place


def _load(path: Path) -> _Directory:
    made = _Directory()
    for child in path.iterdir():
        if child.is_dir():
            made.now[child.name] = _load(child)
        else:
            data = child.read_bytes()
            made.now[child.name] = _File(bytearray(data), data, whole=True)
    made.synced = dict(made.now)
    return made


def _apply(names: dict[str, _File | _Directory], put: dict[str, _File | _Directory], gone: tuple[str, ...]) -> None:
    for name in gone:
        names.pop(name, None)
    names.update(put)


def _states(directory: _Directory) -> Iterator[Tree]:
    """Trees that may be found: for each way its names may have got there, each way of what is behind them."""
    seen: list[list[tuple[str, int]]] = []
    prefixes = [directory.log[:count] for count in range(len(directory.log) + 1)]
    for kept in [*prefixes, *([one] for one in directory.log)]:
        names = dict(directory.synced)
        for put, gone in kept:
            _apply(names, put, gone)
        shape = sorted((name, id(node)) for name, node in names.items())
        if shape in seen:
            continue
        seen.append(shape)
        ways = [list(_contents(node)) for node in names.values()]
        for choice in itertools.product(*ways):
            yield dict(zip(names, choice, strict=True))


def _contents(node: _File | _Directory) -> Iterator[bytes | Tree]:
    if isinstance(node, _Directory):
        yield from _states(node)
        return
    now, before = bytes(node.now), node.synced
    if node.whole or now == before:
        yield from sorted({before, now})
        return
    # Only what was written since may be half there: what comes before it, and after it where it overwrote, is safe.
    first = _common(before, now)
    tail = _common(before[first:][::-1], now[first:][::-1]) if len(before) == len(now) else 0
    head, new, rest = now[:first], now[first : len(now) - tail], now[len(now) - tail :]
    old = before[first : len(before) - tail]
    half = len(new) // 2
    torn = (new[:half] + old[half:], old[:half].ljust(half, b"\0") + new[half:], bytes(len(new)))
    yield from sorted({before, now, *(head + middle + rest for middle in torn)})


def _common(left: bytes, right: bytes) -> int:
    """How many bytes at the start are the same."""
    return next(
        (n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), min(len(left), len(right))
    )


def _make(place: Path, tree: Tree) -> None:
    place.mkdir()
    for name, what in tree.items():
        if isinstance(what, bytes):
            (place / name).write_bytes(what)
        else:
            _make(place / name, what)
