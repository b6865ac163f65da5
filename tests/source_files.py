"""The repository's source files as data for the house rules: text, syntax tree, imports, calls.

Every file is read and parsed once. Does not: judge; `test_tidy.py` does.
"""

from __future__ import annotations

import ast
import fnmatch
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("clients", "exits", "profiles", "policies", "daemon")
# What a package that imports by one name is installed by.
DISTRIBUTIONS = {
    "zmq": "pyzmq",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "google": "protobuf",
    "tomllib": "tomli",
    "jtop": "jetson-stats",
    "pynvml": "nvidia-ml-py",
    "cuda": "cuda-bindings",
}


class Source(NamedTuple):
    """One file: its path from the root (`exits/train.py`), its room ("" for the root), and its syntax tree."""

    path: str
    room: str
    text: str
    tree: ast.Module

    def matches(self, patterns: Iterable[str]) -> bool:
        return any(fnmatch.fnmatch(self.path, pattern) for pattern in patterns)


class Import(NamedTuple):
    """One imported module. `room` is "" where it is not delen's; `top`: done as soon as the file is imported.

    `typing_only`: under `if TYPE_CHECKING`, so never done.
    """

    line: int
    module: str
    room: str
    top: bool
    typing_only: bool


@cache
def sources() -> tuple[Source, ...]:
    """Everything that ships: the root's modules and the rooms'."""
    paths = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
    return tuple(_read(path) for path in sorted(paths))


@cache
def house_tests() -> tuple[Source, ...]:
    return tuple(_read(path) for path in sorted((ROOT / "tests").rglob("*.py")))


def _read(path: Path) -> Source:
    text = path.read_text("utf-8")
    relative = path.relative_to(ROOT)
    room = relative.parts[0] if len(relative.parts) > 1 else ""
    return Source(relative.as_posix(), room, text, ast.parse(text, str(relative)))


@cache
def imports(source: Source) -> tuple[Import, ...]:
    """Every import of a file, delen's own as `room.module` whatever way it was written."""
    return tuple(_imports(source.tree, source.room, top=True, typing_only=False))


def _imports(node: ast.AST, room: str, *, top: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for name in child.names:
                yield _import(child.lineno, name.name, top=top, typing_only=typing_only)
        elif isinstance(child, ast.ImportFrom):
            for module in _imported_from(child, room):
                yield _import(child.lineno, module, top=top, typing_only=typing_only)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            hidden = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, room, top=top and not inside and not hidden, typing_only=typing_only or hidden)


def _imported_from(node: ast.ImportFrom, room: str) -> list[str]:
    """The modules that `from ... import ...` names, written out from the root; `room` is where it stands."""
    module = node.module or ""
    if node.level:
        base = room if node.level == 1 else ""
        module = ".".join(part for part in ("delen", base, module) if part)
    is_room = module == "delen" or module.removeprefix("delen.") in ROOMS
    return [f"{module}.{name.name}" for name in node.names] if is_room else [module]


def _import(line: int, module: str, *, top: bool, typing_only: bool) -> Import:
    if module.split(".")[0] != "delen":
        return Import(line, module, "", top, typing_only)
    own = module.removeprefix("delen").removeprefix(".")
    room = own.split(".")[0]
    return Import(line, own, room if room in ROOMS else "", top, typing_only)


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(source.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the dotted name it was written with."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""


def check(rule: str, found: Iterable[str]) -> None:
    """Fail with every place where the rule is broken."""
    places = sorted(set(found))
    assert not places, "\n".join([rule, *places])


def over(files: Iterable[Source], rule: Callable[[Source], Iterable[tuple[int, str]]]) -> list[str]:
    return [f"{source.path}:{line} {what}" for source in files for line, what in rule(source)]


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
