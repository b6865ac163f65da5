"""The wheel holds everything a user needs and nothing else, and depends on no engine unless asked."""

from __future__ import annotations

import email
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from delen.tests.source_files import ROOMS, ROOT, pyproject

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, so that the checkout is left alone; without a network."""
    return zipfile.ZipFile(_built(tmp_path_factory.mktemp("wheel") / "source", 1_600_000_000, {}))


def _built(copy: Path, modified: int, environment: dict[str, str]) -> Path:
    """The wheel of a copy of the checkout whose files are of that time."""
    pytest.importorskip("build", reason="the dev extra brings it")
    folder = copy.parent
    copy.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    (copy / "exits" / "left_over.tmp").write_text("not ours")
    for path in copy.rglob("*"):
        os.utime(path, (modified, modified))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    expected = {f"delen/{path.relative_to(ROOT).as_posix()}" for room in ROOMS for path in (ROOT / room).glob("*.py")}
    for package, patterns in pyproject()["tool"]["setuptools"]["package-data"].items():
        room = package.removeprefix("delen").removeprefix(".")
        for path in (ROOT / room).rglob("*") if room else ROOT.glob("*"):
            inside = path.relative_to(ROOT / room).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(inside, pattern) for pattern in patterns):
                expected.add("/".join(part for part in ("delen", room, inside) if part))
    assert expected - names == set()


def test_the_same_source_gives_the_same_wheel_bit_for_bit(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Built elsewhere, from files of another time, in another time zone and language, with other hashes."""
    elsewhere = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    again = _built(tmp_path / "another name for it", 1_650_000_001, elsewhere)
    first, second = (hashlib.sha256(path.read_bytes()) for path in (Path(str(wheel.filename)), again))
    assert first.hexdigest() == second.hexdigest()


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    roots = {"delen", f"delen-{pyproject()['project']['version']}.dist-info"}
    assert {name.split("/")[0] for name in wheel.namelist()} == roots
    assert not [name for name in wheel.namelist() if "left_over" in name or "tests/" in name or "__pycache__" in name]


def test_wheel_is_pure_python_and_carries_its_licence(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name.endswith("-py3-none-any.whl")
    licences = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert len(licences) == 1
    assert wheel.read(licences[0]) == (ROOT / "LICENSE").read_bytes()


def test_no_engine_comes_without_being_asked_for(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    requires = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist") or []
    always = [item for item in requires if "extra ==" not in item]
    assert len(always) == len(pyproject()["project"]["dependencies"])
    assert not [item for item in always if "torch" in item or "onnx" in item or "cuda" in item]


def test_command_is_installed(wheel: zipfile.ZipFile) -> None:
    entry = next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "delen = delen.clients.cli:main" in wheel.read(entry).decode()
    assert (Path(sys.executable).parent / "delen").exists(), "run `pip install -e .` first"
