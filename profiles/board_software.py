"""What software a board came with: L4T, JetPack, CUDA, TensorRT and its Python, by the files that each leaves.

Role: for `delen doctor`, which says what fits together. Versions are read where they are written down, never looked up
by one another, so the next release is described as well as the last. `root` stands for /, in tests a made-up tree.
Does not: import anything of it, or judge.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from .meter_ina3221 import ROOT

DPKG_BYTES_MAX = 32 * 1024**2


class Software(NamedTuple):
    """Versions as text; None where no file says. `tensorrt_pythons`: those that TensorRT's bindings are there for."""

    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None
    tensorrt_pythons: tuple[str, ...]
    python: str | None

    @property
    def jetson(self) -> bool:
        """Whether this is a Jetson's system at all."""
        return self.l4t is not None or self.jetpack is not None


def read_software(root: Path = ROOT) -> Software:
    """Look at the system under `root`. Never fails."""
    return Software(_l4t(root), _jetpack(root), _cuda(root), _tensorrt(root), _tensorrt_pythons(root), _python(root))


def _l4t(root: Path) -> str | None:
    # As in `# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ...`
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", _read(root / "etc/nv_tegra_release"))
    return None if found is None else f"{found[1]}.{found[2]}"


def _jetpack(root: Path) -> str | None:
    """Of the package that stands for all of JetPack; an image without it has only L4T."""
    found = re.search(
        r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\w.]+)", _read(root / "var/lib/dpkg/status"), re.MULTILINE
    )
    return None if found is None else found[1]


def _cuda(root: Path) -> str | None:
    try:
        version = json.loads(_read(root / "usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        # CUDA 10.2 of JetPack 4 wrote a line of text.
        found = re.search(r"CUDA Version ([\d.]+)", _read(root / "usr/local/cuda/version.txt"))
        return None if found is None else found[1]
    return str(version)


def _tensorrt(root: Path) -> str | None:
    for library in sorted((root / "usr/lib").glob("*-linux-gnu/libnvinfer.so.*.*.*")):
        return library.name.partition(".so.")[2]
    return None


def _tensorrt_pythons(root: Path) -> tuple[str, ...]:
    folders = (root / "usr/lib").glob("python3*/dist-packages/tensorrt")
    return tuple(sorted(folder.parent.parent.name.removeprefix("python") for folder in folders))


def _python(root: Path) -> str | None:
    """The system's own, which JetPack's bindings are made for."""
    try:
        target = (root / "usr/bin/python3").readlink().name
    except OSError:
        return None
    return target.removeprefix("python") or None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(DPKG_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
