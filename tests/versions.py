"""Other versions of the shipped `digits`, for networks swapped under load. Does not: differ in what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

from delen.exits.bundle import shipped_directory


def version(folder: Path, number: str) -> Path:
    """The shipped `digits`, as another version."""
    directory = folder / f"digits-{number}"
    if not directory.exists():
        shutil.copytree(shipped_directory() / "digits", directory)
        manifest = directory / "network.toml"
        text = manifest.read_text()
        lines = [f'version = "{number}"' if line.startswith("version = ") else line for line in text.splitlines()]
        manifest.write_text("\n".join(lines) + "\n")
    return directory
