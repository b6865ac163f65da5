"""A configuration is what one writer wrote at one time, or it is not taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from delen.daemon import toml_file
from delen.daemon.toml_file import READS_MAX, ConfigError, ConfigMissing, line_of, read_toml


class Writer:
    """Does something to the file each time it has just been read, as long as there is something to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *then: Callable[[], object]) -> None:
        self.reads, self._then = 0, list(then)
        self._check = toml_file._check_writers
        monkeypatch.setattr(toml_file, "_check_writers", self.between)

    def between(self, found: os.stat_result, path: Path) -> None:
        """After the first look at the file, before its bytes are read."""
        self._check(found, path)
        self.reads += 1
        if self._then:
            self._then.pop(0)()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "delen.toml"
    path.write_text("threads = 1\n")
    return path


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = path.with_name("new")
    new.write_text("threads = 2\n")
    writer = Writer(monkeypatch, lambda: new.replace(path))
    assert read_toml(path) == {"threads": 2}
    assert writer.reads == 2


def test_a_file_that_is_written_while_it_is_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(monkeypatch, lambda: path.write_text("threads = 3\nwatts = 1.0\n"))
    assert read_toml(path) == {"threads": 3, "watts": 1.0}
    assert writer.reads == 2


def test_a_file_that_is_always_written_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(range(1, 100))
    writer = Writer(monkeypatch, *[lambda: path.write_text("#" * next(sizes))] * 99)
    with pytest.raises(ConfigError, match="changed while it was read"):
        read_toml(path)
    assert writer.reads == READS_MAX


def test_a_file_that_goes_while_it_is_read_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer(monkeypatch, path.unlink)
    with pytest.raises(ConfigMissing, match="No such file"):
        read_toml(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)
    with pytest.raises(ConfigMissing, match=r"no regular file|directory"):
        read_toml(path)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Expected `float`, got `str` - at `$.tenants[1].weight`", 8),
        ("Expected `float`, got `str` - at `$.tenants[0].weight`", 5),
        # An unknown key is named as a field of its table.
        ("Object contains unknown field `speed` - at `$.tenants[1]`", 9),
        ("Expected `int`, got `str` - at `$.limits.queued_max`", 2),
        ("limits.queued_max is 0; expected a finite number above 0", 2),
        ("Expected `str`, got `int` - at `$.tenants[1].uids`", 6),
        ("Expected `str`, got `int` - at `$.tenants[7].weight`", 3),
        ("nothing of the kind", None),
    ],
)
def test_the_line_of_what_is_wrong_is_the_one_that_is_meant(said: str, line: int | None) -> None:
    tenants = "[[tenants]]\nname = 'a'\nweight = 'x'\n[[tenants]]\nname = 'b'\nweight = 'y'\nspeed = 1\n"
    text = f"[limits]\nqueued_max = 0\n{tenants}"
    assert line_of(text, said) == line
