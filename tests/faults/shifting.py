"""Small networks whose answer tells which version gave it: digit `d` in, class `(d + version) % 10` out.

Flow: `shifting(folder, name, version)` writes a bundle once; `one_hot` is an input, `answer_of` what is right for it.
`profiled` gives versions the profile that was measured of another, since they cost the same and a measurement takes
seconds. Does not: export, which takes torch; graphs are written byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from delen.clients.info import Preprocessing
from delen.exits.bundle import load_bundle
from delen.exits.bundle_writer import Description, Part, write_bundle
from delen.exits.manifest import ExitEntry, TensorShape
from delen.profiles.schema import Profile
from delen.profiles.store import write_profile
from delen.tests.hostile_graphs import graph, model, node, part, port, tensor

DIGITS, EXITS = 10, 2
SHAPE = TensorShape(dtype="float32", shape=(DIGITS,))
_PORTS = part(11, port("input", "batch", DIGITS)) + part(12, port("output", "batch", DIGITS))
_CLASSES = tuple(str(digit) for digit in range(DIGITS))


def one_hot(digit: int) -> npt.NDArray[np.float32]:
    """An input."""
    x = np.zeros(DIGITS, np.float32)
    x[digit] = 1
    return x


def answer_of(version: int, digit: int) -> int:
    """The label that this version gives, and no other of the ten before or after it."""
    return (digit + version) % DIGITS


def shifting(folder: Path, name: str, version: int, *, broken: bool = False) -> Path:
    """The bundle's directory. `broken`: what it says of zeros is not finite, so that it fails its canary."""
    directory = folder / f"{name}-{version}{'-broken' if broken else ''}"
    if not directory.exists():
        weights = np.roll(np.eye(DIGITS, dtype=np.float32) * 9, version, axis=1)
        description = Description(
            name=name,
            version=str(version),
            licence="Apache-2.0",
            classes=_CLASSES,
            input=SHAPE,
            preprocessing=Preprocessing(colour="none", scale=1.0, mean=(0.0,), std=(1.0,)),
            exits=(ExitEntry(accuracy=1.0, temperature=1.0, gmac=0.0),) * EXITS,
            provenance={"purpose": "answers say which version gave them"},
        )
        passing = Part(model(graph(part(1, node()), _PORTS)), SHAPE)
        head = Part(_product(weights, logarithm=broken), SHAPE)
        write_bundle(directory, description, segments=[passing] * EXITS, heads=[head] * EXITS)
    return directory


def _product(weights: npt.NDArray[np.float32], *, logarithm: bool) -> bytes:
    """The input times these; or the logarithm of that, which no other check than trying would find fault with."""
    values = struct.pack(f"<{weights.size}f", *weights.ravel().tolist())
    product = "product" if logarithm else "output"
    nodes = part(1, part(1, "input") + part(1, "weight") + part(2, product) + part(4, "MatMul"))
    if logarithm:
        nodes += part(1, part(1, product) + part(2, "output") + part(4, "Log"))
    return model(graph(nodes, _PORTS, more=part(5, tensor(DIGITS, DIGITS, raw=values))))


def profiled(state: Path, like: Profile, directories: Iterable[Path]) -> None:
    """Keep this profile for all of these bundles."""
    for directory in directories:
        bundle = load_bundle(directory)
        made = msgspec.structs.replace(
            like,
            network=bundle.manifest.name,
            network_version=bundle.manifest.version,
            bundle=bundle.digest,
        )
        write_profile(state, made)
