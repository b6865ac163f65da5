"""A network on disk: the manifest, its checks, and reading its parts. Loading executes no code from a bundle.

Role: everything that makes a directory of files into something that may be served: known keys only, regular files
inside the directory, hashes that match, graphs that fit together, no pickles. Flow: `load_bundle(directory)` ->
`Bundle`; engines then call `bundle.read(file)`, which hashes what it actually read, so a file swapped after the check
is caught.

Does not: check operators (engines do), say what a manifest must hold (`manifest.py`), or write into a bundle
(`export.py` does, once).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .calibration_file import Calibration, CalibrationFault, read_calibration
from .graph_file import GraphFault, Port, read_facts
from .manifest import Manifest, ManifestFault, TensorShape, read_manifest

MANIFEST = "network.toml"
MANIFEST_BYTES_MAX = 256 * 1024
# An ONNX file is one protobuf message, and those end at 2 GiB.
FILE_BYTES_MAX = 2 * 1024**3
PIECE_BYTES = 1024**2
# What may lie beside the files that the manifest names: for readers, and profiles that the author measured.
BESIDE = frozenset({"README", "README.md", "LICENSE", "LICENCE", "LICENSE.md", "LICENSE.txt", "profiles", "model.sig"})
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".dill", ".bin", ".ckpt"})
# Whose work it is: `signatures.py`. It speaks of the other files, so the manifest cannot name it.
SIGNATURE = "model.sig"
INPUT, OUTPUT = "input", "output"


class BundleError(ValueError):
    """A bundle that cannot be served: which file, what was expected, what to do."""


class BundleMissing(BundleError):
    """There is none."""


class FileTooLarge(BundleError):
    """A file of it has more bytes than may be read."""


class Bundle:
    """A checked bundle. `digest`: SHA-256 of its manifest, hex; since that names every file's hash, of all of it."""

    def __init__(
        self, directory: Path, manifest: Manifest, digest: str, *, file_bytes_max: int = FILE_BYTES_MAX
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.digest = digest
        self._file_bytes_max = file_bytes_max

    def __repr__(self) -> str:
        return f"Bundle({self.manifest.name} {self.manifest.version}, {self.digest[:12]}, {self.directory})"

    @property
    def evidence(self) -> str:
        """What its certificates rest on, as a digest: as long as that is the same, so are they."""
        return self.digest

    def read(self, file: str) -> bytes:
        """The contents of one file that the manifest names, hashed as read.

        Raises:
            KeyError: the manifest names no such file.
            BundleError: it cannot be read, or is not what the manifest says.
        """
        expected = self.manifest.hashes()[file]
        data = read_plain(self.directory, file, self._file_bytes_max)
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise BundleError(
                f"{self.directory / file}: its SHA-256 is {found[:16]}..., the manifest says {expected[:16]}...; "
                "it was damaged or changed: install or export the bundle again"
            )
        return data

    def calibration(self) -> Calibration | None:
        """How sure and how right each exit was on held-out samples; None where the bundle has none."""
        entry = self.manifest.calibration
        if entry is None:
            return None
        try:
            return read_calibration(self.read(entry.file), len(self.manifest.exits))
        except CalibrationFault as fault:
            raise BundleError(f"{self.directory / entry.file}: {fault}; calibrate and export again") from fault


def load_bundle(directory: Path, *, file_bytes_max: int = FILE_BYTES_MAX) -> Bundle:
    """Check a bundle completely: manifest, every file's kind, size and hash, graphs and calibration.

    Args:
        file_bytes_max: of each file, which is in memory as a whole while it is checked.
    Raises:
        BundleError: the first fault found, with the file, what was expected and what to do.
    """
    directory = directory.absolute()
    if not directory.is_dir():
        raise BundleError(f"{directory} is not a directory; a bundle is a directory with {MANIFEST}")
    raw = read_plain(directory, MANIFEST, MANIFEST_BYTES_MAX)
    try:
        manifest = read_manifest(raw)
    except ManifestFault as fault:
        raise BundleError(f"{directory / MANIFEST}: {fault}") from fault
    bundle = Bundle(directory, manifest, hashlib.sha256(raw).hexdigest(), file_bytes_max=file_bytes_max)
    _check_listing(bundle)
    before = manifest.input
    for segment, head in zip(manifest.segments, manifest.heads, strict=True):
        _check_graph(bundle, segment.file, before, segment.output)
        _check_graph(bundle, head.file, segment.output, head.output)
        before = segment.output
    bundle.calibration()
    return bundle


def shipped_directory() -> Path:
    """Where the bundles that come with delen are."""
    return Path(__file__).parent / "bundles"


def find_bundle(name_or_path: str, directories: Sequence[Path]) -> Path:
    """The directory of a network given by name, looked up in `directories` in order, or by path.

    A network's name goes before a directory of that name here; with a slash it is always a path.

    Raises:
        BundleMissing: not there; says which networks are.
    """
    if "/" in name_or_path or name_or_path in (".", ".."):
        # Not Path.expanduser, which raises where there is no such user.
        path = Path(os.path.expanduser(name_or_path))  # noqa: PTH111
        if (path / MANIFEST).is_file():
            return path
        raise BundleMissing(f"{path} holds no {MANIFEST}; give a bundle's directory, or a network's name")
    for directory in directories:
        if name_or_path and (directory / name_or_path / MANIFEST).is_file():
            return directory / name_or_path
    if name_or_path and (Path(name_or_path) / MANIFEST).is_file():
        return Path(name_or_path)
    known = sorted({path.parent.name for directory in directories for path in directory.glob(f"*/{MANIFEST}")})
    raise BundleMissing(
        f"no network named {name_or_path[:80]!r} in {', '.join(map(str, directories))}; "
        f"there are: {', '.join(known) or 'none'}; for a bundle elsewhere give its path, with a slash"
    )


def _check_listing(bundle: Bundle) -> None:
    """Refuse whatever the manifest does not name: it would ship unseen, and pickles run code where they are loaded."""
    named = {MANIFEST, *bundle.manifest.hashes()}
    for path in sorted(bundle.directory.iterdir()):
        entry = path.name
        if path.suffix.lower() in PICKLES:
            raise BundleError(f"{path}: this kind of file can run code when it is loaded; remove it from the bundle")
        if entry in named:
            continue
        if entry not in BESIDE:
            raise BundleError(f"{path}: the manifest does not name it; remove it, or export the bundle again")
        found = os.lstat(path)
        if not (stat.S_ISDIR if entry == "profiles" else stat.S_ISREG)(found.st_mode):
            raise BundleError(
                f"{path}: a link or special file; a bundle holds plain files only: put the file itself there"
            )


def _check_graph(bundle: Bundle, file: str, taken: TensorShape, given: TensorShape) -> None:
    path = bundle.directory / file
    try:
        facts = read_facts(bundle.read(file))
    except GraphFault as fault:
        raise BundleError(f"{path}: {fault}") from fault
    for ports, name, expected in ((facts.inputs, INPUT, taken), (facts.outputs, OUTPUT, given)):
        if [port.name for port in ports] != [name]:
            found = ", ".join(port.name[:40] for port in ports) or "none"
            raise BundleError(f"{path}: its {name}s are {found:.200}; expected exactly one named {name!r}")
        if not _fits(ports[0], expected):
            raise BundleError(
                f"{path}: its {name} is {_spell(ports[0])}; the manifest says {expected.dtype}"
                f"[batch, {', '.join(map(str, expected.shape))}]: export it again so that the parts fit together"
            )


def _fits(port: Port, expected: TensorShape) -> bool:
    """Same dtype and rank, batch left open; other sides equal or open."""
    if port.dtype != expected.dtype or len(port.shape) != len(expected.shape) + 1 or port.shape[0] is not None:
        return False
    return all(side in (None, wanted) for side, wanted in zip(port.shape[1:], expected.shape, strict=True))


def _spell(port: Port) -> str:
    return f"{port.dtype}[{', '.join('?' if side is None else str(side) for side in port.shape)}]"


def read_plain(directory: Path, file: str, bytes_max: int) -> bytes:
    """Read a plain file of the bundle; a link, even one put there after the check, is not followed.

    Raises:
        BundleError: it is missing, no plain file, has a second name, is too large, or cannot be read.
    """
    with _opened_plain(directory / file, bytes_max) as stream:
        return stream.read(bytes_max)


def hash_plain(directory: Path, file: str) -> str:
    """SHA-256 of a plain file of the bundle, hex, with little of it in memory at a time. Raises as `read_plain`."""
    digest = hashlib.sha256()
    with _opened_plain(directory / file, FILE_BYTES_MAX) as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _opened_plain(path: Path, bytes_max: int) -> Iterator[BinaryIO]:
    try:
        # Without O_NONBLOCK opening a fifo would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; install or export the bundle again") from None
    except OSError as error:
        if path.is_symlink():
            raise BundleError(f"{path} is a link; a bundle holds plain files only: put the file itself there") from None
        raise BundleError(f"{path} cannot be read: {error.strerror}; check its owner and rights") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{path} is not a plain file; install or export the bundle again")
        # With a second name somebody may write to it from elsewhere. Installers do so with what ships, from a cache.
        if found.st_nlink != 1 and not path.is_relative_to(shipped_directory()):
            raise BundleError(
                f"{path} has {found.st_nlink} names (hard links); a bundle's files have one each: copy it with `cp -r`"
            )
        if found.st_size > bytes_max:
            raise FileTooLarge(f"{path} has {found.st_size} bytes; at most {bytes_max} are allowed")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; check its disk") from error
    finally:
        os.close(handle)
