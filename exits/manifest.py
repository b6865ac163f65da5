"""`network.toml`: what a bundle says about its network, and what may not be said.

Role: the records of the manifest and their checks. Flow: bytes -> `read_manifest` -> `Manifest`, or one fault in
words. Unknown keys are refused, and names of files are plain names, so nothing outside the directory can be meant.

Does not: touch files (`bundle.py`), or write manifests (`export.py`).
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import msgspec

from ..clients.info import Preprocessing
from ..clients.places import name_fault
from ..clients.toml_text import TomlFault, parse_toml_text
from ..clients.wire import DTYPES, RANK_MAX

FORMAT = 1
EXITS_MAX = 32
CLASSES_MAX = 100_000
# One input of 2^28 values is a gigabyte of float32: more than any edge board should batch.
VALUES_MAX = 2**28
Precision = Literal["fp32", "fp16", "int8"]
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestFault(ValueError):
    """A manifest that cannot be used; the text says which key, what was expected and what to do."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class TensorShape(_Record, frozen=True):
    """dtype by numpy's name, and shape without the batch."""

    dtype: str
    shape: tuple[int, ...]


class Graph(_Record, frozen=True):
    """One ONNX file with one input named `input` and one output named `output`."""

    file: str
    sha256: str
    output: TensorShape


class ExitEntry(_Record, frozen=True):
    """`accuracy`: share of the calibration part that this exit got right, before any profile; `temperature`: the logits
    are divided by it before softmax. `gmac`: billions of multiply-adds of one input, segments 0..k and head k.
    """

    accuracy: float
    temperature: float
    gmac: float | None = None


class HashedFile(_Record, frozen=True):
    file: str
    sha256: str


class Manifest(_Record, frozen=True):
    """A network. `segments[k]`, `heads[k]` and `exits[k]` belong to exit k; segment k takes what segment k-1 gives.

    `provenance`: free text by key: data, recipe, seed, versions, accuracies on the test part. `precision`: what its
    graphs compute in; what crosses their edges is float32 all the same.
    """

    format: int
    name: str
    version: str
    licence: str
    classes: tuple[str, ...]
    input: TensorShape
    preprocessing: Preprocessing
    segments: tuple[Graph, ...]
    heads: tuple[Graph, ...]
    exits: tuple[ExitEntry, ...]
    calibration: HashedFile | None = None
    provenance: dict[str, str] = {}
    precision: Precision = "fp32"

    def hashes(self) -> dict[str, str]:
        """SHA-256 by file name, of every file the manifest names."""
        entries: list[Graph | HashedFile] = [*self.segments, *self.heads]
        if self.calibration is not None:
            entries.append(self.calibration)
        return {entry.file: entry.sha256 for entry in entries}


def read_manifest(raw: bytes) -> Manifest:
    """Parse and check a manifest. Raises ManifestFault."""
    try:
        loose: dict[str, Any] = parse_toml_text(raw)
    except TomlFault as error:
        raise ManifestFault(f"not TOML: {error}; it is damaged: install or export the bundle again") from error
    # First, so that a manifest of a later format is not refused for the keys that format added.
    if loose.get("format") != FORMAT:
        raise ManifestFault(
            f"format is {loose.get('format')!r:.40}; this delen reads {FORMAT}: export the bundle again with it"
        )
    try:
        manifest = msgspec.convert(loose, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestFault(f"{error}; correct it, or export the bundle again") from error
    fault = manifest_fault(manifest)
    if fault:
        raise ManifestFault(f"{fault}; correct it, or export the bundle again")
    return manifest


def manifest_fault(manifest: Manifest) -> str | None:
    """What cannot be right in a manifest whose types are; None when nothing is wrong."""
    count = len(manifest.exits)
    if not 0 < count <= EXITS_MAX or len(manifest.segments) != count or len(manifest.heads) != count:
        return (
            f"{len(manifest.segments)} segments, {len(manifest.heads)} heads and {count} exits; "
            f"expected as many of each, 1 to {EXITS_MAX}"
        )
    if not 2 <= len(manifest.classes) <= CLASSES_MAX:
        return f"{len(manifest.classes)} classes; expected 2 to {CLASSES_MAX}"
    return (
        name_fault("name", manifest.name)
        or name_fault("version", manifest.version)
        or _shape_fault("input", manifest.input)
        or _preprocessing_fault(manifest.preprocessing)
        or _graphs_fault(manifest)
        or _files_fault(manifest)
        or _exits_fault(manifest.exits)
    )


def _shape_fault(where: str, tensor: TensorShape) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"{where}: dtype {tensor.dtype!r:.40}; expected one of {', '.join(sorted(DTYPES))}"
    if not 0 < len(tensor.shape) < RANK_MAX or min(tensor.shape) < 1 or math.prod(tensor.shape) > VALUES_MAX:
        return (
            f"{where}: shape {tensor.shape!s:.80}; expected 1 to {RANK_MAX - 1} sides of at least 1, "
            f"at most {VALUES_MAX} values"
        )
    return None


def _preprocessing_fault(rule: Preprocessing) -> str | None:
    numbers = (rule.scale, *rule.mean, *rule.std)
    if not all(math.isfinite(number) for number in numbers) or min(rule.std, default=0.0) <= 0:
        return "preprocessing: scale, mean and std must be finite, and std above 0"
    if len(rule.mean) != len(rule.std) or len(rule.mean) not in (1, 3):
        return f"preprocessing: {len(rule.mean)} means and {len(rule.std)} stds; expected 1 or 3 of each"
    return None


def _graphs_fault(manifest: Manifest) -> str | None:
    logits = TensorShape(dtype="float32", shape=(len(manifest.classes),))
    for index, (segment, head) in enumerate(zip(manifest.segments, manifest.heads, strict=True)):
        fault = _shape_fault(f"segments[{index}].output", segment.output)
        if fault:
            return fault
        if head.output != logits:
            return (
                f"heads[{index}].output is {head.output.dtype}{list(head.output.shape)}; "
                f"expected float32[{len(manifest.classes)}], one value per class"
            )
    return None


def _files_fault(manifest: Manifest) -> str | None:
    graphs = (*manifest.segments, *manifest.heads)
    entries = [(graph.file, graph.sha256, ".onnx") for graph in graphs]
    if manifest.calibration is not None:
        entries.append((manifest.calibration.file, manifest.calibration.sha256, ".npz"))
    for file, digest, ending in entries:
        if not _PLAIN.fullmatch(file) or not file.endswith(ending):
            return f"file {file!r:.80}: expected a plain name ending in {ending}, without a folder, inside the bundle"
        if not _SHA256.fullmatch(digest):
            return f"{file}: sha256 {digest!r:.80}; expected 64 lower-case hex digits"
    names = [file for file, _, _ in entries]
    doubled = next((name for name in names if names.count(name) > 1), None)
    return f"file {doubled} is named twice" if doubled else None


def _exits_fault(exits: tuple[ExitEntry, ...]) -> str | None:
    for index, entry in enumerate(exits):
        # NaN fails both comparisons.
        if not 0 <= entry.accuracy <= 1:
            return f"exits[{index}]: accuracy {entry.accuracy}; expected 0 to 1"
        if not 0 < entry.temperature < 1e6:
            return f"exits[{index}]: temperature {entry.temperature}; expected above 0 and below a million"
    return _gmac_fault(exits)


def _gmac_fault(exits: tuple[ExitEntry, ...]) -> str | None:
    least = 0.0
    for index, entry in enumerate(exits):
        if entry.gmac is None:
            continue
        if not least <= entry.gmac < math.inf:
            return (
                f"exits[{index}]: gmac {entry.gmac}; expected a number of at least {least:g}, what the exits before it "
                "take: it is the sum of segments 0 to the exit's own and its head"
            )
        least = entry.gmac
    return None
