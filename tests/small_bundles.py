"""Bundles for tests: copies of the shipped `digits` to damage, and tiny ones made node by node."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.clients.info import Preprocessing
from delen.exits.bundle import Bundle, shipped_directory
from delen.exits.bundle_writer import Description, Part, write_bundle
from delen.exits.manifest import ExitEntry, TensorShape

WIDTH, CLASSES = 4, ("a", "b", "c")


def digits_copy(folder: Path) -> Path:
    """A copy of the shipped digits bundle that a test may damage."""
    return Path(shutil.copytree(shipped_directory() / "digits", folder / "digits"))


def edit(directory: Path, old: str, new: str) -> None:
    """Replace text in a bundle's manifest; the text must be there, or the test would test nothing."""
    path = directory / "network.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def graph(nodes: Sequence[Any], *, given: Sequence[int | str], constants: Sequence[Any] = (), opset: int = 18) -> bytes:
    """An ONNX file with `input` float32[batch, 4] and `output` float32[batch, *given]; a string leaves a side open."""
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    helper = onnx.helper
    made = helper.make_graph(
        list(nodes),
        "part",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", *given])],
        list(constants),
    )
    domains = {node.domain for node in nodes if node.domain}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    data: bytes = helper.make_model(made, opset_imports=imports, ir_version=8).SerializeToString()
    return data


def one_exit(folder: Path, segment: bytes, head: bytes) -> Bundle:
    """A bundle with one exit: float32[4] in, 3 classes out, around these two graphs."""
    return write_bundle(
        folder / "tiny",
        Description(
            name="tiny",
            version="1",
            licence="Apache-2.0",
            classes=CLASSES,
            input=TensorShape(dtype="float32", shape=(WIDTH,)),
            preprocessing=Preprocessing(),
            exits=(ExitEntry(accuracy=0.5, temperature=1.0),),
            provenance={},
        ),
        segments=[Part(segment, TensorShape(dtype="float32", shape=(WIDTH,)))],
        heads=[Part(head, TensorShape(dtype="float32", shape=(len(CLASSES),)))],
    )


def identity_graph() -> bytes:
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    return graph([onnx.helper.make_node("Identity", ["input"], ["output"])], given=[WIDTH])


def first_three_graph() -> bytes:
    """A head that gives the first three values."""
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx: pip install 'delen[torch]'")
    ends = [
        onnx.numpy_helper.from_array(np.array([value], np.int64), key)
        for key, value in (("from", 0), ("to", 3), ("axis", 1))
    ]
    node = onnx.helper.make_node("Slice", ["input", "from", "to", "axis"], ["output"])
    return graph([node], given=[len(CLASSES)], constants=ends)
