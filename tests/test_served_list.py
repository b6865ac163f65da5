"""What was served is known after a restart, and a bundle exchanged under the same version is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.daemon.served_list import Listed, exchanged, listed, read_list, write_list
from delen.exits.bundle import load_bundle, shipped_directory

ONE, TWO = Listed("digits", "1", "a" * 64), Listed("fashion", "3", "b" * 64)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_list(tmp_path) == ({}, "")
    write_list(tmp_path, {"digits": ONE, "fashion": TWO})
    assert read_list(tmp_path) == ({"digits": ONE, "fashion": TWO}, "")
    write_list(tmp_path, {})
    assert read_list(tmp_path) == ({}, "")


def test_bundles_are_listed_by_what_they_say_they_are() -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    assert listed([bundle]) == {"digits": Listed("digits", bundle.manifest.version, bundle.digest)}


def test_only_the_same_version_with_other_files_is_told() -> None:
    before = {"digits": ONE, "fashion": TWO}
    now = {
        "digits": Listed("digits", "1", "c" * 64),
        "fashion": Listed("fashion", "4", "d" * 64),
        "new": Listed("new", "1", "e" * 64),
    }
    (said,) = exchanged(before, now)
    assert said.startswith("network digits is not the one that was served before: version 1 both")
    assert "aaaaaaaaaaaaaaaa and has cccccccccccccccc" in said
    assert exchanged(before, before) == []


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'[{"name":1}]', b"\xff", b'[{"name":"x","version":"1","digest":"","x":1}]']
)
def test_a_strange_list_is_told_and_not_believed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "networks.json").write_bytes(data)
    found, said = read_list(tmp_path)
    assert found == {}
    assert "is no list of networks" in said
