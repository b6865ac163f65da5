"""Other versions of the shipped `digits`, for networks swapped under load. Does not: differ in what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

from delen.exits.bundle import shipped_directory


def version(folder: Path, number: str, name: str = "digits") -> Path:
    """The shipped `digits` as another version, or under another name."""
    directory = folder / f"{name}-{number}"
    if not directory.exists():
        shutil.copytree(shipped_directory() / "digits", directory)
        manifest = directory / "network.toml"
        said = {"version": f'version = "{number}"', "name": f'name = "{name}"'}
        # The network's own are before the first table.
        head, table, rest = manifest.read_text().partition("\n[")
        lines = [said.get(line.split(" = ")[0], line) for line in head.split("\n")]
        manifest.write_text("\n".join(lines) + table + rest)
    return directory
