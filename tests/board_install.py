"""What pip would put on a Jetson, and how large delen is by itself: `python -m delen.tests.board_install`.

Flow: each board's Python and machine decide which of an extra's requirements count; pip then resolves those for wheels
of that board, without installing. A build of PyTorch or TensorRT, or CUDA's own libraries, would be wrong there: those
are JetPack's. PyCUDA has no wheel and is built on the board: of it only what its source says it needs is resolved, with
its compiler taken for granted here. Last, the base is installed into an empty folder and weighed. Needs a package
index, and ends with 1 where something is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from delen.tests.source_files import ROOT, pyproject

BASE_BYTES_MAX = 25_000_000
# JetPack 6 and 7.
PYTHONS = ("3.10", "3.12")
# glibc 2.35 and 2.39 have wheels of all these.
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64")
# Brought by a board's own software, or an engine that nobody asked for.
WRONG = re.compile(r"(torch|tensorrt|onnxruntime|triton|nvidia-cu|nvidia-nccl|cuda-toolkit)", re.IGNORECASE)
# The binding's own wheels.
RIGHT = {"cuda-bindings", "cuda-pathfinder", "nvidia-ml-py"}


class Resolved(NamedTuple):
    """What pip would install, as name-version."""

    packages: tuple[str, ...]

    @property
    def wrong(self) -> list[str]:
        return [each for each in self.packages if WRONG.match(each) and each.rpartition("-")[0] not in RIGHT]


class Source(NamedTuple):
    """What a source distribution says of itself. `needs`: requirements, each perhaps with a marker."""

    name: str
    python: str
    needs: tuple[str, ...]


def wanted(extra: str, python: str, machine: str = "aarch64") -> list[str]:
    """The base and one extra, as requirements that hold on such a machine; "" is the base alone."""
    project = pyproject()["project"]
    listed = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    return holding(listed, python, machine)


def holding(listed: Sequence[str], python: str, machine: str = "aarch64") -> list[str]:
    """Those of these requirements that hold on such a machine, without their markers."""
    there = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "extra": "",
    }
    found = []
    for text in listed:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(there):
            # pip would judge the marker by the Python that it runs on itself.
            requirement.marker = None
            found.append(str(requirement))
    return found


def fetch_source(requirement: str) -> Source:
    """The source that pip would build on a board; nothing of it is built or kept. Ends the process where it cannot.

    pip has a source say what it is before it gives it; PyCUDA's asks where the compiler is, so one is made up.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tools, nvcc = Path(scratch) / "cuda/bin", Path(scratch) / "cuda/bin/nvcc"
        tools.mkdir(parents=True)
        nvcc.write_text("#!/bin/sh\n")
        nvcc.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        only_source = f"--no-binary={Requirement(requirement).name}"
        done = subprocess.run(
            [*(sys.executable, "-m", "pip", "download", "--no-deps"), only_source, "--dest", scratch, requirement],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CUDA_ROOT": str(tools.parent), "PATH": path},
        )
        files = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or len(files) != 1:
            sys.exit(f"{requirement}: no source to be had: {done.stderr.strip().splitlines()[-1:]}")
        return read_source(files[0])


def read_source(file: Path) -> Source:
    """What the archive's own PKG-INFO says."""
    with tarfile.open(file) as archive:
        top = min((name for name in archive.getnames() if name.endswith("/PKG-INFO")), key=len)
        stream = archive.extractfile(top)
        assert stream is not None
        said = HeaderParser().parsestr(stream.read().decode())
    needs = tuple(said.get_all("Requires-Dist", []))
    return Source(f"{said['Name']}-{said['Version']}", said["Requires-Python"] or "", needs)


def resolve(requirements: Sequence[str], python: str) -> Resolved:
    """What pip would install on a board for these, of wheels alone. Ends the process where it finds no way."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--target", "nowhere"),
        *("--only-binary=:all:", "--python-version", python, *platforms, *requirements),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = re.search(r"^Would install (.*)$", done.stdout, re.MULTILINE)
    if said is None:
        sys.exit(f"{' '.join(requirements)} on Python {python}: {done.stderr.strip().splitlines()[-1]}")
    return Resolved(tuple(said.group(1).split()))


def weigh() -> tuple[int, int]:
    """Bytes of an installed base: all but numpy, and numpy."""
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, since building leaves things behind.
        source, target = Path(scratch) / "source", Path(scratch) / "target"
        left_out = shutil.ignore_patterns(".*", "build", "__pycache__", "tests", "*.egg-info")
        shutil.copytree(ROOT, source, ignore=left_out)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(target)]
        subprocess.run([*pip, "--no-build-isolation", str(source)], check=True)
        sizes = {path: path.stat().st_size for path in target.rglob("*") if path.is_file()}
        numpy = sum(size for path, size in sizes.items() if path.relative_to(target).parts[0].startswith("numpy"))
        return sum(sizes.values()) - numpy, numpy


def built_there(extra: str) -> tuple[list[str], bool]:
    """An extra whose one package is built on the board: what can be said of it here, and whether something is wrong."""
    [requirement] = pyproject()["project"]["optional-dependencies"][extra]
    source, lines, bad = fetch_source(requirement), [], False
    for python in PYTHONS:
        fits = SpecifierSet(source.python).contains(f"{python}.0")
        rest = [each for each in wanted(extra, python) if Requirement(each).name != Requirement(requirement).name]
        found = resolve([*rest, *holding(source.needs, python)], python)
        bad |= bool(found.wrong) or not fits
        built = f"{source.name} (source; built on the board, here only its requirements are resolved)"
        lines.append(f"[{extra}] on Python {python}: {built} {' '.join(found.packages)}")
        lines += [] if fits else [f"  wrong here: {source.name} wants Python {source.python}"]
        lines += [f"  wrong here: {each}" for each in found.wrong]
    return lines, bad


def main() -> int:
    """Resolve and weigh; 1 where something is wrong."""
    lines, bad = [], False
    for extra in ("", "jetson", "tensorrt"):
        for python in PYTHONS:
            found = resolve(wanted(extra, python), python)
            bad |= bool(found.wrong)
            lines.append(f"[{extra or 'base'}] on Python {python}: {' '.join(found.packages)}")
            lines += [f"  wrong here: {each}" for each in found.wrong]
    said, wrong = built_there("pycuda")
    lines, bad = lines + said, bad or wrong
    base, numpy = weigh()
    bad |= base > BASE_BYTES_MAX
    lines.append(f"base: {base / 1e6:.1f} MB beyond numpy's {numpy / 1e6:.1f}; at most {BASE_BYTES_MAX / 1e6:.0f}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
