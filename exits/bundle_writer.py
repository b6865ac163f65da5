"""Write a bundle directory so that it either is whole and right or is not there.

Flow: files, then the manifest, into a hidden directory beside the target -> load it as a user would -> the caller's own
check on it -> it takes the target's place in one step (`whole_directory.py`). A writer may be killed at any point: what
it leaves is never found as a bundle, and the next writer to that place removes it. Does not: make graphs (`export.py`),
or touch a directory that is no bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..clients.info import Preprocessing
from . import whole_directory
from .bundle import MANIFEST, Bundle, BundleError, load_bundle
from .manifest import FORMAT, ExitEntry, Graph, HashedFile, Manifest, Precision, TensorShape

CALIBRATION = "calibration.npz"


class Description(NamedTuple):
    """What a bundle says about its network besides the files."""

    name: str
    version: str
    licence: str
    classes: tuple[str, ...]
    input: TensorShape
    preprocessing: Preprocessing
    exits: tuple[ExitEntry, ...]
    provenance: Mapping[str, str]
    precision: Precision = "fp32"


class Part(NamedTuple):
    """One graph: a self-contained ONNX file's bytes, and its output's dtype and shape without batch."""

    data: bytes
    output: TensorShape


def write_bundle(
    out: Path,
    description: Description,
    *,
    segments: list[Part],
    heads: list[Part],
    calibration: bytes | None = None,
    replace: bool = False,
    check: Callable[[Bundle], None] | None = None,
) -> Bundle:
    """Write a bundle to `out`, which appears only after everything has passed.

    Args:
        check: called with the finished bundle while it is still hidden; what it raises ends the writing.
    Raises:
        FileExistsError: `out` is there and `replace` is not set, or it is no bundle.
        BundleError: what was to be written is not a bundle that would load.
    """
    manifest, files = _assemble(description, segments, heads, calibration)
    with whole_directory.written(out, MANIFEST, replace=replace) as hidden:
        for name, data in {**files, MANIFEST: toml(manifest).encode()}.items():
            whole_directory.write_durably(hidden / name, data)
        bundle = load_bundle(hidden)
        if bundle.manifest != manifest:
            raise BundleError(f"{hidden / MANIFEST} reads back differently from what was written")
        if check is not None:
            check(bundle)
    return load_bundle(out)


def refuse_overwrite(out: Path, *, replace: bool) -> None:
    """Raises FileExistsError where writing a bundle to `out` would destroy something."""
    whole_directory.refuse_overwrite(out, MANIFEST, replace=replace)


def toml(manifest: Manifest) -> str:
    """The manifest as TOML. Every value of ours is a string, number or list of these, so JSON's spelling serves."""
    lines = [
        f"format = {FORMAT}",
        f"name = {_spell(manifest.name)}",
        f"version = {_spell(manifest.version)}",
        f"licence = {_spell(manifest.licence)}",
        f"classes = {_spell(manifest.classes)}",
        # Left out where it is the usual, so that what older versions wrote and read stays as it is.
        *([] if manifest.precision == "fp32" else [f"precision = {_spell(manifest.precision)}"]),
        "",
        "[input]",
        f"dtype = {_spell(manifest.input.dtype)}",
        f"shape = {_spell(manifest.input.shape)}",
        "",
        "# value to the network: (value * scale - mean) / std",
        "[preprocessing]",
        f"colour = {_spell(manifest.preprocessing.colour)}",
        f"scale = {_spell(manifest.preprocessing.scale)}",
        f"mean = {_spell(manifest.preprocessing.mean)}",
        f"std = {_spell(manifest.preprocessing.std)}",
    ]
    for kind, graphs in (("segments", manifest.segments), ("heads", manifest.heads)):
        for graph in graphs:
            output = f"{{ dtype = {_spell(graph.output.dtype)}, shape = {_spell(graph.output.shape)} }}"
            lines += ["", f"[[{kind}]]", *_file_lines(graph), f"output = {output}"]
    for entry in manifest.exits:
        lines += ["", "[[exits]]", f"accuracy = {_spell(entry.accuracy)}", f"temperature = {_spell(entry.temperature)}"]
        if entry.gmac is not None:
            lines.append(f"gmac = {_spell(entry.gmac)}")
    if manifest.calibration is not None:
        lines += ["", "[calibration]", *_file_lines(manifest.calibration)]
    lines += ["", "[provenance]"]
    lines += [f"{_spell(key)} = {_spell(value)}" for key, value in manifest.provenance.items()]
    return "\n".join(lines) + "\n"


def _assemble(
    description: Description, segments: list[Part], heads: list[Part], calibration: bytes | None
) -> tuple[Manifest, dict[str, bytes]]:
    files: dict[str, bytes] = {}
    graphs: dict[str, list[Graph]] = {"segment": [], "head": []}
    for kind, parts in (("segment", segments), ("head", heads)):
        for index, part in enumerate(parts):
            name = f"{kind}{index}.onnx"
            files[name] = part.data
            graphs[kind].append(Graph(file=name, sha256=_digest(part.data), output=part.output))
    if calibration is not None:
        files[CALIBRATION] = calibration
    manifest = Manifest(
        format=FORMAT,
        name=description.name,
        version=description.version,
        licence=description.licence,
        classes=description.classes,
        input=description.input,
        preprocessing=description.preprocessing,
        segments=tuple(graphs["segment"]),
        heads=tuple(graphs["head"]),
        exits=description.exits,
        calibration=None if calibration is None else HashedFile(file=CALIBRATION, sha256=_digest(calibration)),
        provenance=dict(description.provenance),
        precision=description.precision,
    )
    return manifest, files


def _file_lines(entry: Graph | HashedFile) -> list[str]:
    return [f"file = {_spell(entry.file)}", f"sha256 = {_spell(entry.sha256)}"]


def _spell(value: str | float | tuple[str, ...] | tuple[float, ...]) -> str:
    # 0x7f is the one character that JSON leaves bare and TOML forbids.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).replace("\x7f", "\\u007f")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
