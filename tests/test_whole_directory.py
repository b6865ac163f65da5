"""A directory is there whole or not at all, wherever its writer is killed, and the next writer cleans up."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from delen.exits import whole_directory
from delen.exits.bundle import BundleError, load_bundle, shipped_directory
from delen.exits.bundle_writer import Description, Part, write_bundle

MARK = "mark"


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the writer would still do happens."""


def whole_write(out: Path, version: str, *, replace: bool = False) -> None:
    with whole_directory.written(out, MARK, replace=replace) as hidden:
        for name in ("first", "second", MARK):
            whole_directory.write_durably(hidden / name, version.encode())


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def whole(version: str) -> dict[str, str]:
    return dict.fromkeys(("first", "second", MARK), version)


class Disk:
    """Calls that touch the disk, counted; after `left` of them the writer is dead and does nothing any more."""

    def __init__(self) -> None:
        self.left: float = math.inf

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*given, **named)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    for where, name in (
        (os, "fsync"),
        (Path, "rename"),
        (Path, "open"),
        (Path, "chmod"),
        (whole_directory, "_exchange"),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(where, name, made.counted(getattr(where, name)))
    return made


def kill_everywhere(disk: Disk, write: Callable[[], object], look: Callable[[], None]) -> int:
    """Kill the writer at its first, second, ... step until it gets through; look at what is there every time."""
    for step in range(100):
        disk.left = step
        try:
            write()
        except Killed:
            disk.left = math.inf
            look()
        else:
            disk.left = math.inf
            return step
    raise AssertionError("the writer never got through")


def test_a_writer_killed_anywhere_leaves_no_directory_and_the_next_one_cleans_up(disk: Disk, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def look() -> None:
        if out.exists():  # Killed after the last step that matters.
            assert contents(out) == whole("1")
            shutil.rmtree(out)

    steps = kill_everywhere(disk, lambda: whole_write(out, "1"), look)
    assert steps > 2 * len(whole("1"))
    assert contents(out) == whole("1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_killed_replacement_leaves_the_old_or_the_new_and_never_neither(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:  # As on file systems that cannot.
        monkeypatch.setattr(whole_directory, "_exchange", lambda first, second: False)
    out = tmp_path / "out"
    whole_write(out, "0")

    def look() -> None:
        if not exchanges:
            with pytest.raises(FileExistsError):  # The next writer first puts back what a dead one set aside.
                whole_write(out, "2")
        assert contents(out) in (whole("0"), whole("1"))

    kill_everywhere(disk, lambda: whole_write(out, "1", replace=True), look)
    assert contents(out) == whole("1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_export_leaves_nothing_that_loads_but_whole_bundles(disk: Disk, tmp_path: Path) -> None:
    shipped = load_bundle(shipped_directory() / "identity-3k")
    manifest = shipped.manifest
    description = Description(
        **{name: getattr(manifest, name) for name in Description._fields if name != "provenance"}, provenance={}
    )
    segments, heads = (
        [Part(shipped.read(graph.file), graph.output) for graph in graphs]
        for graphs in (manifest.segments, manifest.heads)
    )
    out, digests = tmp_path / "out", set()

    def look() -> None:
        for directory in tmp_path.iterdir():
            with contextlib.suppress(BundleError):
                digests.add(load_bundle(directory).digest)
        if out.exists():
            shutil.rmtree(out)

    kill_everywhere(disk, lambda: write_bundle(out, description, segments=segments, heads=heads), look)
    assert digests <= {load_bundle(out).digest}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_writer_at_work_is_not_swept_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_directory.written(out, MARK, replace=True) as hidden:
        whole_write(out, "other")
        assert hidden.is_dir()
        for name in whole(""):
            whole_directory.write_durably(hidden / name, b"mine")
    assert contents(out) == whole("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_neighbour_with_a_longer_name_is_not_swept(tmp_path: Path) -> None:
    """`.out.x.part` is ours; what others hide beside it is not."""
    others = [".out", ".out.abc", ".out.bundle.abc.part", ".outer.abc.part"]
    for name in (*others, ".out.abc.part"):
        (tmp_path / name).mkdir()
    whole_write(tmp_path / "out", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "out"]
