"""Directories that look like bundles: links, pipes, devices, hidden programs, names that lead elsewhere, bursting zips.

Flow: every entry of `PLACES`, `NAMES` and `CALIBRATIONS` damages a copy of a good bundle (shipped `digits`) in one way;
with it stand the words its refusal must have. Contents that a hash would give away get their hash put right.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from delen.exits.manifest import read_manifest
from delen.tests.small_bundles import edit

Damage = Callable[[Path], None]
GRAPH, CALIBRATION, MANIFEST = "segment0.onnx", "calibration.npz", "network.toml"


def rehash(directory: Path, file: str) -> None:
    """Make the manifest agree with a file that was replaced, so that no hash gives it away."""
    named = read_manifest((directory / MANIFEST).read_bytes()).hashes()
    edit(directory, named[file], hashlib.sha256((directory / file).read_bytes()).hexdigest())


def _outside(directory: Path) -> Path:
    """The good file, moved out of the bundle: whoever follows a link to it reads outside."""
    return directory.parent / "outside"


def _link(directory: Path, file: str, target: str = "") -> None:
    (directory / file).rename(_outside(directory))
    (directory / file).symlink_to(target or _outside(directory))


def _hard_link(directory: Path, file: str, name: str = "../second") -> None:
    os.link(directory / file, directory / name)


def _pipe(directory: Path, file: str) -> None:
    (directory / file).unlink()
    os.mkfifo(directory / file)


def _socket(directory: Path, file: str) -> None:
    (directory / file).unlink()
    # Paths of sockets are short, and those of tests are not.
    here = os.open(directory, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{file}")
    finally:
        os.close(here)


def _directory(directory: Path, file: str) -> None:
    (directory / file).unlink()
    (directory / file).mkdir()


def _sparse(directory: Path, file: str) -> None:
    with (directory / file).open("r+b") as stream:
        stream.truncate(2**40)


def _flip(directory: Path, file: str) -> None:
    data = bytearray((directory / file).read_bytes())
    data[len(data) // 2] ^= 0x20
    (directory / file).write_bytes(data)


def _cut(directory: Path, file: str) -> None:
    (directory / file).write_bytes((directory / file).read_bytes()[:-1])


def _empty(directory: Path, file: str) -> None:
    (directory / file).write_bytes(b"")


def _remove(directory: Path, file: str) -> None:
    (directory / file).unlink()


def _add(directory: Path, file: str) -> None:
    (directory / file).write_bytes(b"#!/bin/sh\n")


def _add_directory(directory: Path, file: str) -> None:
    (directory / file).mkdir()


def _clear(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def _add_link(directory: Path, file: str) -> None:
    (directory / file).symlink_to("/etc/passwd")


def _damage(damage: Callable[[Path, str], None], file: str, directory: Path) -> None:
    damage(directory, file)


_KINDS: Mapping[str, tuple[Callable[[Path, str], None], str]] = {
    "a link out of the bundle": (_link, "is a link"),
    "a link within it": (partial(_link, target="head0.onnx"), "is a link"),
    "a link to nothing": (partial(_link, target="nowhere"), "is a link"),
    "a link to itself": (partial(_link, target="segment0.onnx"), "is a link"),
    "a link to a device": (partial(_link, target="/dev/zero"), "is a link"),
    "a link to the process's memory": (partial(_link, target="/proc/self/mem"), "is a link"),
    "a second name outside": (_hard_link, "2 names"),
    "a second name inside": (partial(_hard_link, name="README.md"), "2 names"),
    "a pipe": (_pipe, "not a plain file"),
    "a socket": (_socket, "cannot be read"),
    "a directory": (_directory, "not a plain file"),
    "a terabyte of nothing": (_sparse, "at most"),
    "missing": (_remove, "missing"),
    "one bit wrong": (_flip, ""),
    "one byte short": (_cut, ""),
    "empty": (_empty, ""),
}
_PROGRAMS = ("w.pt", "w.PTH", "w.pkl", "w.pickle", "w.joblib", "w.npy", "w.dill", "w.bin", "w.ckpt")
_STRANGERS = (
    "segment9.onnx",
    "__init__.py",
    ".hidden",
    "engine.trt",
    "model.plan",
    "setup.py",
    "x\ny",
    "w.safetensors",
)

PLACES: Mapping[str, tuple[Damage, str]] = {
    **{
        f"{file}: {what}": (partial(_damage, damage, file), words)
        for file in (MANIFEST, GRAPH, CALIBRATION)
        for what, (damage, words) in _KINDS.items()
        if (file, what) != (MANIFEST, "one byte short")  # the manifest ends with free text
    },
    **{f"a program beside it: {name}": (partial(_add, file=name), "can run code") for name in _PROGRAMS},
    **{f"a stranger: {name!r}": (partial(_add, file=name), "does not name") for name in _STRANGERS},
    "a directory beside it": (partial(_add_directory, file="weights"), "does not name"),
    "profiles as a link": (partial(_add_link, file="profiles"), "link"),
    "profiles as a file": (partial(_add, file="profiles"), "link or special"),
    "README as a link": (partial(_add_link, file="README"), "link"),
    "the signature as a link": (partial(_add_link, file="model.sig"), "link"),
    "LICENSE as a directory": (partial(_add_directory, file="LICENSE"), "link or special"),
    "nothing at all": (lambda directory: shutil.rmtree(directory), "not a directory"),
    "an empty directory": (_clear, "missing"),
}

_PATHS = (
    *("../x.onnx", "../../etc/passwd", "/etc/passwd", "/proc/self/mem.onnx", "a/b.onnx", "./x.onnx", "..", ".", ""),
    *("~/x.onnx", "$HOME/x.onnx", "file:///x.onnx", "%2e%2e/x.onnx", "..\\\\x.onnx", "C:x.onnx", ".hidden.onnx"),
    *("x\\u0000.onnx", "x\\n.onnx", "x\\u001b[2J.onnx", "x\\u202egpj.onnx", "x" * 300 + ".onnx", "-rf.onnx", "ü.onnx"),
    *("network.toml", "model.sig", "x.onnx.pkl", "x.ONNX", "calibration.npz"),
)


def _named(name: str, directory: Path) -> None:
    edit(directory, f'file = "{GRAPH}"', f'file = "{name}"')


NAMES: Mapping[str, tuple[Damage, str]] = {
    repr(name): (partial(_named, name), "which no name" if "u0000" in name else "plain name") for name in _PATHS
}


def _members() -> dict[str, bytes]:
    """The parts of a good calibration of three exits and four samples."""
    truth = np.ones((4, 3), bool)
    columns = {"doubt": np.zeros((4, 3), "<f2"), "correct": truth, "agrees": truth, "fit": np.array([True, False] * 2)}
    return {f"{name}.npy": npy(column) for name, column in columns.items()}


def npy(array: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=True)
    return packed.getvalue()


def zipped(members: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in pairs:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return packed.getvalue()


def _with(name: str, data: bytes) -> bytes:
    return zipped({**_members(), name: data})


def _header(text: str, *, version: bytes = b"\x01\x00", body: bytes = bytes(24)) -> bytes:
    """A .npy whose header says this."""
    size = struct.pack("<H" if version < b"\x02" else "<I", len(text) + 1)
    return b"\x93NUMPY" + version + size + text.encode() + b"\n" + body


def _patched(data: bytes, old: bytes, new: bytes, *, last: bool = False) -> bytes:
    at = data.rfind(old) if last else data.find(old)
    assert at >= 0
    return data[:at] + new + data[at + len(old) :]


def _entry_changed(offset: int, value: bytes) -> bytes:
    """A good zip with bytes of its first entry changed, in the directory and in front of the data alike."""
    data = bytearray(zipped(_members()))
    central = data.find(b"PK\x01\x02")
    data[central + offset : central + offset + len(value)] = value
    if offset < 30:
        data[offset - 2 : offset - 2 + len(value)] = value
    return bytes(data)


_GOOD_HEADER = "{'descr': '<f2', 'fortran_order': False, 'shape': (4, 3), }"
_TRUTH = npy(np.ones((4, 3), bool))
CALIBRATIONS: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"\x93NUMPY" + bytes(90), "not a readable zip"),
    "a pickle": (lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", "not a readable zip"),
    "a zip cut short": (lambda: zipped(_members())[:-30], "not a readable zip"),
    "a zip with a start cut off": (lambda: zipped(_members())[40:], ""),
    "words after its end": (lambda: zipped(_members()) + b"and more", "not a readable zip"),
    "a comment": (lambda: zipped(_members())[:-2] + b"\x04\x00text", "not a readable zip"),
    "a zip for giants": (
        lambda: _patched(zipped(_members()), b"PK\x05\x06", b"PK\x06\x07" + bytes(16) + b"PK\x05\x06", last=True),
        "more than 4 GiB",
    ),
    "ten thousand entries": (lambda: zipped([(f"{n}.npy", b"") for n in range(10_000)]), "entries"),
    "a member too many": (lambda: zipped({**_members(), "more.npy": b""}), "no more"),
    "a member too few": (lambda: zipped(dict(list(_members().items())[1:])), "no more"),
    "a path for a name": (lambda: zipped({**_members(), "../../etc/passwd": b""}), "no more"),
    "an absolute name": (lambda: zipped({**dict(list(_members().items())[1:]), "/doubt.npy": b""}), "no more"),
    "more zeros than a million samples": (lambda: _with("doubt.npy", bytes(7 * 10**6)), "unpacks to"),
    "two gigabytes by its own word": (lambda: _entry_changed(24, struct.pack("<I", 2**31)), "unpacks to"),
    "more than it says": (lambda: _entry_changed(24, struct.pack("<I", 100)), ""),
    "packed by LZMA": (lambda: zipped(_members(), zipfile.ZIP_LZMA), "packed in a way"),
    "packed by BZIP2": (lambda: zipped(_members(), zipfile.ZIP_BZIP2), "packed in a way"),
    "packed by nobody knows what": (lambda: _entry_changed(10, b"\x63\x00"), "packed in a way"),
    "locked": (lambda: _entry_changed(8, b"\x01\x00"), "packed in a way"),
    "a wrong checksum": (lambda: _entry_changed(16, b"\0\0\0\0"), "not a readable zip"),
    "objects": (lambda: _with("doubt.npy", npy(np.array([[{}] * 3] * 4, dtype=object))), "objects are never read"),
    "records": (lambda: _with("doubt.npy", npy(np.zeros((4, 3), [("a", "<f2")]))), "readable .npy"),
    "text": (lambda: _with("doubt.npy", npy(np.array([["x"] * 3] * 4))), "doubt is"),
    "dates": (lambda: _with("doubt.npy", npy(np.zeros((4, 3), "<M8[s]"))), "readable .npy"),
    "doubles": (lambda: _with("doubt.npy", npy(np.zeros((4, 3)))), "float64"),
    "the other way round": (lambda: _with("doubt.npy", npy(np.zeros((4, 3), ">f2"))), "doubt is"),
    "by columns": (lambda: _with("doubt.npy", npy(np.asfortranarray(np.zeros((4, 3), "<f2")))), "row by row"),
    "NaN": (lambda: _with("doubt.npy", npy(np.full((4, 3), np.nan, "<f2"))), "outside 0..1"),
    "infinity": (lambda: _with("doubt.npy", npy(np.full((4, 3), np.inf, "<f2"))), "outside 0..1"),
    "less than nothing": (lambda: _with("doubt.npy", npy(np.full((4, 3), -1, "<f2"))), "outside 0..1"),
    "no rows": (lambda: _with("doubt.npy", npy(np.zeros((0, 3), "<f2"))), "shape"),
    "other exits": (lambda: _with("doubt.npy", npy(np.zeros((4, 2), "<f2"))), "shape"),
    "a scalar": (lambda: _with("doubt.npy", npy(np.zeros((), "<f2"))), "shape"),
    "rows that differ": (lambda: _with("doubt.npy", npy(np.zeros((5, 3), "<f2"))), "differ in length"),
    "a last exit that contradicts itself": (lambda: _with("agrees.npy", npy(np.zeros((4, 3), bool))), "disagrees"),
    "truth of 2": (lambda: _with("correct.npy", _TRUTH[:-1] + b"\x02"), "other than 0 and 1"),
    "a program for a header": (
        lambda: _with("doubt.npy", _header("{'descr': __import__('os').system('id'), 'shape': (4, 3), }")),
        "readable .npy",
    ),
    "a header of brackets": (lambda: _with("doubt.npy", _header("(" * 900)), "readable .npy"),
    "a header of 64 KB": (lambda: _with("doubt.npy", _header(_GOOD_HEADER + " " * 60_000)), ""),
    "a shape beyond counting": (
        lambda: _with("doubt.npy", _header(_GOOD_HEADER.replace("(4, 3)", f"({10**30}, 3)"))),
        "shape",
    ),
    "a negative shape": (lambda: _with("doubt.npy", _header(_GOOD_HEADER.replace("4, 3", "-4, 3"))), "readable .npy"),
    "a shape of commas": (
        lambda: _with("doubt.npy", _header(_GOOD_HEADER.replace("4, 3", "4,,3"))),
        "unreadable shape",
    ),
    "a later version": (lambda: _with("doubt.npy", _header(_GOOD_HEADER, version=b"\x03\x00")), "readable .npy"),
    "less than its header says": (lambda: _with("doubt.npy", _header(_GOOD_HEADER, body=bytes(23))), "23 bytes"),
    "nothing for a member": (lambda: _with("doubt.npy", b""), "readable .npy"),
}
