"""What a board's system says of its software is read as it is written there, release by release."""

from __future__ import annotations

from pathlib import Path

from delen.profiles.board_software import Software, read_software
from delen.tests.board_trees import plant, plant_software


def test_jetpack_6(tmp_path: Path) -> None:
    found = read_software(plant_software(tmp_path))
    assert found == Software("36.4.3", "6.2", "12.6.11", "10.3.0", ("3.10",), "3.10")
    assert found.jetson


def test_jetpack_4_wrote_cudas_version_as_a_line(tmp_path: Path) -> None:
    plant(tmp_path / "etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref\n")
    plant(tmp_path / "usr/local/cuda/version.txt", "CUDA Version 10.2.300\n")
    found = read_software(tmp_path)
    assert (found.l4t, found.cuda, found.jetpack) == ("32.7.1", "10.2.300", None)
    assert found.jetson


def test_a_machine_that_is_no_jetson(tmp_path: Path) -> None:
    found = read_software(tmp_path)
    assert found == Software(None, None, None, None, (), None)
    assert not found.jetson


def test_files_that_say_something_else_say_nothing(tmp_path: Path) -> None:
    plant(tmp_path / "etc/nv_tegra_release", "???")
    plant(tmp_path / "usr/local/cuda/version.json", "[]")
    plant(tmp_path / "var/lib/dpkg/status", "Package: nvidia-jetpack\n\nPackage: other\nVersion: 9\n")
    assert read_software(tmp_path) == (None, None, None, None, (), None)
