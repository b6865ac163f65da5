"""Kept engines: found by all they were built for, built anew where damaged, and never read from where others write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from delen.exits import engine_cache
from delen.exits.engine_cache import EngineCache, cache_directory, key_of

KEY = key_of(b"graph", {"sm": 87})


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines", os.getuid())


def test_what_was_written_is_read_by_this_user_alone(cache: EngineCache, tmp_path: Path) -> None:
    assert cache.read(KEY) is None
    cache.write(KEY, b"engine")
    assert cache.read(KEY) == b"engine"
    (path,) = (tmp_path / "engines").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "other",
    [
        key_of(b"graph2", {"sm": 87}),
        key_of(b"graph", {"sm": 72}),
        key_of(b"graph", {"sm": 87, "tensorrt": "10.3"}),
        key_of(b"graph", {}),
    ],
)
def test_another_graph_device_or_version_is_another_engine(other: str, cache: EngineCache) -> None:
    cache.write(KEY, b"engine")
    assert cache.read(other) is None


@pytest.mark.parametrize("damage", [b"", b"delen", b"delen engine 1\n" + bytes(32) + b"engine"])
def test_a_damaged_engine_is_none_and_goes(damage: bytes, cache: EngineCache, tmp_path: Path) -> None:
    cache.write(KEY, b"engine")
    path = tmp_path / "engines" / f"{KEY}.engine"
    path.write_bytes(damage)
    assert cache.read(KEY) is None
    assert not path.exists()


def test_a_link_in_an_engines_place_is_not_followed(cache: EngineCache, tmp_path: Path) -> None:
    cache.write(KEY, b"engine")
    path = tmp_path / "engines" / f"{KEY}.engine"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.read(KEY) is None


def test_a_directory_where_others_may_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    EngineCache(folder, os.getuid()).write(KEY, b"engine")
    folder.chmod(0o777)
    cache = EngineCache(folder, os.getuid())
    assert "an engine is code" in cache.fault
    assert cache.read(KEY) is None
    folder.chmod(0o700)
    assert EngineCache(folder, os.getuid()).read(KEY) == b"engine"
    assert "an engine is code" in EngineCache(folder, os.getuid() + 1).fault


def test_a_directory_that_somebody_else_could_replace_is_not_used(tmp_path: Path) -> None:
    above = tmp_path / "anybodys"
    above.mkdir()
    above.chmod(0o777)
    assert "another directory in its place" in EngineCache(above / "engines", os.getuid()).fault
    # As /tmp is.
    above.chmod(0o1777)
    assert not EngineCache(above / "engines", os.getuid()).fault


def test_a_link_to_a_directory_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert EngineCache(tmp_path / "link", os.getuid()).fault


def test_where_nothing_can_be_written_engines_are_built_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file/engines", os.getuid())
    assert "DELEN_CACHE_DIR" in cache.fault
    cache.write(KEY, b"engine")
    assert cache.read(KEY) is None


def test_the_longest_unused_go_first(cache: EngineCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_cache, "ENGINES_MAX", 3)
    keys = [key_of(b"graph", {"n": n}) for n in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.write(key, b"engine")
        os.utime(tmp_path / "engines" / f"{key}.engine", ns=(age, age))
    assert cache.read(keys[0]) is not None, "used now, so no longer the oldest"
    cache.write(keys[3], b"engine")
    assert [cache.read(key) is not None for key in keys] == [True, False, True, True]
    monkeypatch.setattr(engine_cache, "CACHE_BYTES_MAX", 1)
    cache.write(keys[1], b"engine")
    assert [cache.read(key) is not None for key in keys] == [False, True, False, False]


def test_the_directory_is_the_units_the_users_or_named() -> None:
    assert cache_directory({"DELEN_CACHE_DIR": "/a", "CACHE_DIRECTORY": "/b"}, 1) == Path("/a/engines")
    assert cache_directory({"CACHE_DIRECTORY": "/b:/c", "HOME": "/h"}, 1) == Path("/b/engines")
    assert cache_directory({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, 1) == Path("/x/delen/engines")
    assert cache_directory({"HOME": "/h"}, 1) == Path("/h/.cache/delen/engines")
    assert cache_directory({}, 7) == Path("/tmp/delen-cache-7/engines")
