"""Configurations that cannot be used, each in one way, and what must be said of them.

Role: `wrong_ways` gives so many of them for one daemon's files, drawn by a generator: of every setting what it cannot
be, and what else can be wrong with files. Flow: `way.make()` puts the files there, `Files.good()` puts the right ones
back. Does not: start anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from delen.tests.test_reload import WRONG

KEY = "b" * 40


class Way(NamedTuple):
    """One way to be wrong. `words`: all are in what is said of it."""

    name: str
    make: Callable[[], object]
    words: tuple[str, ...]


class Files:
    """A daemon's configuration `path`, and `tenants.d` beside it; `head`: settings it always has."""

    def __init__(self, path: Path, head: str, uid: int) -> None:
        self.path, self.head, self.uid = path, head, uid
        self.folder = path.parent / "tenants.d"

    def text(self, *, settings: str = "", limits: str = "", a: str = "", more: str = "") -> str:
        """A configuration of tenants a and b with these lines in its parts."""
        tenant = '[[tenants]]\nname = "{}"\nuids = [{}]\nsees_all = true\n{}\n'
        tenants = tenant.format("a", self.uid, a) + tenant.format("b", self.uid, "")
        # A machine that is busy with other tests is no worker that hangs, whatever else is said of limits.
        patience = "" if "run_ms_min" in limits else "\nrun_ms_min = 5000"
        return f"{self.head}\n{settings}\n{tenants}\n{more}\n[limits]\n{limits}{patience}\n"

    def good(self, **parts: str) -> None:
        """Write it as an editor does, whole or not at all; nothing else is there."""
        if self.path.is_dir():
            self.path.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)
        new = self.path.with_suffix(".new")
        new.write_text(self.text(**parts))
        new.chmod(0o600)
        new.replace(self.path)

    def beside(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A tenant's file, with a right configuration beside it."""
        self.good()
        self.folder.mkdir(mode=0o755)
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def line(self, wanted: str) -> str:
        """`file:line` of a line of the configuration as it is now."""
        lines = self.path.read_text().splitlines()
        return f"{self.path}:{lines.index(wanted) + 1}"


def wrong_ways(files: Files, count: int, random: Random) -> list[Way]:
    """So many, all special ones among them."""
    special = [*_texts(files), *_others(files)]
    # Tenants here have uids already.
    settings = [_setting(files, said) for said in WRONG if not said.startswith("a:uids")]
    return [*special, *random.sample(settings, max(0, count - len(special)))]


def _setting(files: Files, said: str) -> Way:
    where, _, line = said.partition(":")
    return Way(said, lambda: files.good(**{where: line}), (str(files.path), line.split(" ")[0].split("-")[0]))


def _texts(files: Files) -> Iterator[Way]:
    """The file itself is not one."""
    whole = files.text().encode()
    texts = {
        "nothing in it": (b"", "no tenants"),
        "not UTF-8": (whole + b"# caf\xe9\n", "UTF-8"),
        "a zero byte": (whole + b"# \0\n", "not TOML"),
        "too large": (whole + b"#" * 1024 * 1024, "more than 1048576 bytes"),
        "nested too deep": (b"x = " + b"[" * 20_000 + b"\n" + whole, "not TOML"),
        "a number of 10,000 digits": (b"threads = " + b"9" * 10_000 + b"\n" + whole, "not TOML"),
        "a string without an end": (b'state_dir = "x\n' + whole, "line 1"),
        "an array without an end": (whole + b"x = [1, 2\n", "not TOML"),
        "a table without an end": (whole + b"[limits\n", "line"),
        "no value": (b"threads =\n" + whole, "line 1"),
        "no key": (b"= 1\n" + whole, "line 1"),
        "no equals": (b"threads 1\n" + whole, "line 1"),
        "a key twice": (b"threads = 1\nthreads = 1\n" + whole, "line 2"),
        "a table twice": (whole + b"[limits]\n", "line"),
        "an escape there is not": (b'engine = "\\q"\n' + whole, "line 1"),
        "a leading zero": (b"threads = 01\n" + whole, "line 1"),
        "half a file": (whole[: len(whole) // 2], ""),
    }
    for name, (text, word) in texts.items():
        yield Way(name, lambda text=text: files.path.write_bytes(text), (str(files.path), word))  # type: ignore[misc]


def _others(files: Files) -> Iterator[Way]:
    """Tenants that cannot be, and files that cannot be trusted."""
    path, folder = files.path, files.folder

    def good(**parts: str) -> Callable[[], None]:
        return lambda: files.good(**parts)

    def then(*steps: Callable[[], object]) -> Callable[[], None]:
        def make() -> None:
            files.good()
            for step in steps:
                step()

        return make

    again = '[[tenants]]\nname = "a"\nuids = [0]\n'
    yield Way("a tenant twice", good(more=again), (str(path), "'a' is named twice"))
    yield Way("a tenant of another name", good(more=again.replace('"a"', '"../a"')), (str(path), "is not a name"))
    yield Way("a network nobody serves", good(a='networks = ["nonesuch"]'), ("'a' may use 'nonesuch'", "net0"))
    yield Way("an option the policy has not", good(more="[policy_options]\nspeed = 1"), ("speed",))
    longer = files.text().replace('/run"', f'/{"x" * 100}"')
    yield Way("a path too long", then(lambda: path.write_text(longer)), ("socket path", "shorter runtime_dir"))
    yield Way("tenants that are elsewhere", good(settings='tenants_dir = "nowhere"'), ("nowhere", "No such file"))
    yield Way("an address that is none", good(settings='tcp = "somewhere"'), ("tcp is 'somewhere'", "expected tcp://"))
    yield Way("tcp without a key", good(settings='tcp = "tcp://127.0.0.1"'), ("delen keys init",))
    yield Way("written by anybody", then(lambda: path.chmod(0o666)), (str(path), "chmod go-w"))
    yield Way("gone", then(path.unlink), (str(path), "No such file"))
    yield Way("a directory", then(path.unlink, path.mkdir), (str(path),))
    yield Way("a pipe", then(path.unlink, lambda: os.mkfifo(path, 0o600)), (str(path), "no regular file"))
    yield Way("a link to nowhere", then(path.unlink, lambda: path.symlink_to("nowhere")), (str(path), "No such file"))

    def beside(name: str, text: str, mode: int = 0o600) -> Callable[[], Path]:
        return lambda: files.beside(name, text, mode)

    yield Way("a tenant in two files", beside("a.toml", f"uids = [{files.uid}]\n"), ("'a' is named twice",))
    yield Way("a tenant's file of another kind", beside("c.yaml", "uids: 1"), (str(folder / "c.yaml"), "NAME.toml"))
    yield Way("a tenant's key there is not", beside("c.toml", "uid = 3\n"), (f"{folder / 'c.toml'}:1", "uid"))
    yield Way("a tenant's weight below 0", beside("c.toml", "\nweight = -1\n"), (f"{folder / 'c.toml'}:2", "weight"))
    yield Way("a tenant's name inside", beside("c.toml", 'name = "d"\n'), (f"{folder / 'c.toml'}:1", "name"))
    yield Way("a tenant's file cut off", beside("c.toml", "uids = [1"), (str(folder / "c.toml"), "not TOML"))
    yield Way("a tenant's file for all", beside("c.toml", "uids = [1]\n", 0o666), (str(folder / "c.toml"), "go-w"))

    def shared() -> None:
        files.beside("c.toml", "uids = [1]\n")
        folder.chmod(0o777)

    def linked() -> None:
        files.beside("c.toml", "")
        (folder / "d.toml").symlink_to("c.toml")

    yield Way("a directory for all", shared, (str(folder), "chmod go-w"))
    yield Way("a tenant's file that is a link", linked, (str(folder / "d.toml"), "it is a link"))
