"""What the extras ask for on a board: the right binding of CUDA, and nothing that JetPack brings itself."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="the dev extra brings it")

from delen.tests import board_install
from delen.tests.board_install import PYTHONS, Resolved, Source, built_there, holding, read_source, wanted
from delen.tests.source_files import pyproject


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["jetson", "tensorrt"])
def test_no_board_gets_a_binding_newer_than_its_driver(extra: str, python: str) -> None:
    assert [each for each in wanted(extra, python) if each.startswith("cuda")] == ["cuda-bindings<13,>=12.8"]


@pytest.mark.parametrize("python", PYTHONS)
def test_no_wheel_of_an_engine_is_asked_for_on_a_board(python: str) -> None:
    for extra in ("", "jetson", "tensorrt", "pycuda", "nvml"):
        names = tuple(f"{each.split('>')[0].split('<')[0]}-1" for each in wanted(extra, python))
        assert Resolved(names).wrong == []
    assert any(each.startswith("tensorrt") for each in wanted("tensorrt", python, "x86_64"))


def test_what_is_wrong_on_a_board_is_recognised() -> None:
    packages = ("numpy-2.2.6", "torch-2.9.0", "cuda-bindings-12.9", "nvidia-cudnn-cu12-9.1", "tensorrt-cu12-10.3.0")
    assert Resolved(packages).wrong == ["torch-2.9.0", "nvidia-cudnn-cu12-9.1", "tensorrt-cu12-10.3.0"]


def test_the_base_asks_for_no_engine() -> None:
    assert not [each for each in pyproject()["project"]["dependencies"] if "cuda" in each or "onnx" in each]


SAID = """Metadata-Version: 2.4
Name: pycuda
Version: 2026.1
Requires-Python: ~=3.8
Requires-Dist: mako
Requires-Dist: old; python_version < "3.11"
Requires-Dist: tests; extra == "test"

Requires-Dist: prose
"""


def test_a_source_s_own_words_are_read_and_only_what_holds_on_a_board_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "pycuda-2026.1.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, text in (("pycuda-2026.1/a.egg-info/PKG-INFO", "Name: other\n\n"), ("pycuda-2026.1/PKG-INFO", SAID)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    found = read_source(file)
    assert (found.name, found.python) == ("pycuda-2026.1", "~=3.8")
    assert holding(found.needs, "3.10") == ["mako", "old"]
    assert holding(found.needs, "3.12") == ["mako"]


def test_a_source_that_no_board_s_python_may_build_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolved(requirements: list[str], python: str) -> Resolved:
        asked.extend(requirements)
        return Resolved(("mako-1.3",))

    monkeypatch.setattr(board_install, "resolve", resolved)
    monkeypatch.setattr(board_install, "fetch_source", lambda _: Source("pycuda-9", ">=3.11", ("mako",)))
    lines, wrong = built_there("pycuda")
    assert wrong
    assert [line for line in lines if "wrong" in line] == ["  wrong here: pycuda-9 wants Python >=3.11"]
    assert "[pycuda] on Python 3.12: pycuda-9 (source; built on the board" in lines[2]
    # The source itself has no wheel to be found.
    assert not [each for each in asked if each.startswith("pycuda")]
