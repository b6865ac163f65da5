"""Engines that were built once, on disk: found again by what they were built from, or built again.

Role: between the bundle's graphs and TensorRT, which takes seconds to minutes for each. Flow: `key_of(...)` ->
`EngineCache.read(key)` -> an engine, or None and then `write(key, engine)`. A file begins with the digest of what
follows, so one that was damaged is built anew rather than loaded.

An engine is code: only a directory that belongs to this user, where nobody else may write, is read or written.
Does not: know TensorRT.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..clients import durable

MAGIC = b"delen engine 1\n"
ENDING = ".engine"
ENGINE_BYTES_MAX = 2 * 1024**3
# Beyond either, the engines longest unused go.
ENGINES_MAX = 512
CACHE_BYTES_MAX = 4 * 1024**3


def cache_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where engines are kept: $DELEN_CACHE_DIR, what systemd gives a unit, then XDG's for the user."""
    for name in ("DELEN_CACHE_DIR", "CACHE_DIRECTORY"):
        if environ.get(name):
            return Path(environ[name].split(":")[0]) / "engines"
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "delen/engines"
    home = environ.get("HOME")
    return Path(home) / ".cache/delen/engines" if home else Path(f"/tmp/delen-cache-{uid}/engines")


def key_of(model: bytes, built_for: Mapping[str, object]) -> str:
    """The name of an engine: of this graph, for all that is said of device, versions, precision and batch sizes."""
    said = "\n".join(f"{name}={built_for[name]}" for name in sorted(built_for))
    return hashlib.sha256(hashlib.sha256(model).digest() + said.encode()).hexdigest()


class EngineCache:
    """One directory of engines. `fault`: why it is not used, in words; empty where it is."""

    def __init__(self, directory: Path, uid: int) -> None:
        self._directory = directory
        self.fault = _prepare(directory, uid)

    def read(self, key: str) -> bytes | None:
        """The engine, or None where there is none that is whole."""
        if self.fault:
            return None
        path = self._path(key)
        try:
            data = durable.read_bounded(path, ENGINE_BYTES_MAX)
        except OSError:
            return None
        start = len(MAGIC) + hashlib.sha256().digest_size
        engine = data[start:]
        if data[:start] != MAGIC + hashlib.sha256(engine).digest():
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(path)
        return engine

    def write(self, key: str, engine: bytes) -> None:
        """Keep an engine. Where the disk refuses, it is built again next time; `fault` says so."""
        if self.fault:
            return
        try:
            durable.write_whole(self._path(key), MAGIC + hashlib.sha256(engine).digest() + engine, mode=0o600)
            self._evict(keep=key)
        except OSError as error:
            self.fault = f"engines cannot be kept in {self._directory}: {error.strerror}"

    def drop(self, key: str) -> None:
        """Forget an engine that TensorRT does not take."""
        with suppress(OSError):
            durable.remove(self._path(key))

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{ENDING}"

    def _evict(self, keep: str) -> None:
        found = []
        for path in self._directory.glob(f"*{ENDING}"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                found.append((status.st_mtime_ns, status.st_size, path))
        count, size = len(found), sum(size for _, size, _ in found)
        for _, each, path in sorted(found):
            if count <= ENGINES_MAX and size <= CACHE_BYTES_MAX:
                return
            if path != self._path(keep):
                # Another worker may have been quicker.
                with suppress(FileNotFoundError):
                    durable.remove(path)
                count, size = count - 1, size - each


def _prepare(directory: Path, uid: int) -> str:
    """Make the directory, and look whether it may be trusted: why not, or nothing."""
    try:
        durable.make_directory(directory, mode=0o700)
        status = directory.lstat()
    except OSError as error:
        return f"engines cannot be kept in {directory}: {error.strerror}; name another with DELEN_CACHE_DIR"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o022:
        return (
            f"engines are not kept in {directory}: it must be a directory of uid {uid} where nobody else may write, "
            "since an engine is code; correct that, or name another with DELEN_CACHE_DIR"
        )
    above = next((parent for parent in directory.absolute().parents if _replaceable(parent, uid)), None)
    if above is not None:
        return (
            f"engines are not kept in {directory}: somebody else may put another directory in its place, since {above} "
            f"is theirs or anybody's; name one below what only uid {uid} or root may change, with DELEN_CACHE_DIR"
        )
    return ""


def _replaceable(parent: Path, uid: int) -> bool:
    """Whether others than root and this user may rename what is in a directory."""
    status = parent.stat()
    return status.st_uid not in (0, uid) or bool(status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX)
