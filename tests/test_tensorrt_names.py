"""Every name of TensorRT's that the code uses exists: in all versions, or it is asked for first.

Names that are looked up with `getattr` need only exist in one version, since their absence is reckoned with; all others
must exist in each of 8.6, 10.3 and 11.4, as the real bindings of those versions have them (`tensorrt_names.py`).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from delen.tests.source_files import ROOT
from delen.tests.tensorrt_names import CLASSES, NAMES

FILES = ("exits/tensorrt_build.py", "exits/tensorrt_engine.py", "exits/tensorrt_runner.py")
# What a variable of this name is, wherever it occurs in these files.
KINDS = {
    "trt": "",
    "module": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "flags": "NetworkDefinitionCreationFlag",
    "network": "INetworkDefinition",
    "strategies": "ExecutionContextAllocationStrategy",
}
# Of ours, by the same names.
OURS = {"engine": {"needs", "prepare", "close", "given"}, "network": {"taken", "segments", "heads", "batch_max"}}


class Use(NamedTuple):
    """One name: of which class ("" for the module), whether it may be absent, and where."""

    kind: str
    name: str
    asked: bool
    where: str


@pytest.fixture(scope="module")
def names() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(NAMES.read_text())
    return found


def uses() -> Iterator[Use]:
    for file in FILES:
        tree = ast.parse((ROOT / file).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (kind := kind_of(node.value)) is not None:
                if not node.attr.startswith("__init") and node.attr not in OURS.get(variable(node.value), ()):
                    yield Use(kind, node.attr, False, f"{file}:{node.lineno}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                kind = kind_of(node.args[0])
                if kind is not None and isinstance(node.args[1], ast.Constant):
                    yield Use(kind, str(node.args[1].value), True, f"{file}:{node.lineno}")


def variable(node: ast.expr) -> str:
    """The last word of `trt`, `self._engine` or `kit.trt`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def kind_of(node: ast.expr) -> str | None:
    """The class that an expression is or is of, "" for the module; None where it is nothing of TensorRT's."""
    name = variable(node)
    if name in KINDS:
        return KINDS[name]
    return name if isinstance(node, ast.Attribute) and kind_of(node.value) == "" and name in CLASSES else None


def test_the_code_uses_what_this_test_can_see() -> None:
    found = {(use.kind, use.name) for use in uses()}
    assert ("IExecutionContext", "execute_async_v3") in found
    assert ("BuilderFlag", "TF32") in found
    assert ("", "Runtime") in found
    assert ("Runtime", "deserialize_cuda_engine") in found
    assert len(found) > 40


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.4"])
def test_what_is_used_unasked_exists_in_every_version(version: str, names: dict[str, dict[str, list[str]]]) -> None:
    held = names[version]
    # What is behind a getattr on the module is asked for, and so is all of it.
    asked = {use.name for use in uses() if use.asked and use.kind == ""}
    # These stand where another version's call was looked for and not found, or what they need was.
    fallbacks = {"device_memory_size", "create_execution_context_without_device_memory", "progress_monitor"}
    missing = [
        f"{use.where} {use.kind or 'trt'}.{use.name}"
        for use in uses()
        if not use.asked and use.name not in fallbacks | asked and use.kind not in asked
        if use.name not in held.get(use.kind, ())
    ]
    assert not missing


def test_what_is_asked_for_exists_somewhere(names: dict[str, dict[str, list[str]]]) -> None:
    missing = [
        f"{use.where} {use.kind or 'trt'}.{use.name}"
        for use in uses()
        if use.asked and not any(use.name in held.get(use.kind, ()) for held in names.values())
    ]
    assert not missing


@pytest.mark.parametrize(
    ("version", "calls"),
    [
        ("8.6", {"ICudaEngine.device_memory_size", "ICudaEngine.create_execution_context_without_device_memory"}),
        ("10.3", {"ICudaEngine.device_memory_size_v2", "ExecutionContextAllocationStrategy.USER_MANAGED"}),
        ("11.4", {"ICudaEngine.device_memory_size_v2", "ExecutionContextAllocationStrategy.USER_MANAGED"}),
    ],
)
def test_each_version_has_one_of_the_ways_to_make_a_context(
    version: str, calls: set[str], names: dict[str, dict[str, list[str]]]
) -> None:
    held = {f"{kind}.{name}" for kind, each in names[version].items() for name in each}
    assert calls <= held
    assert ("NetworkDefinitionCreationFlag.STRONGLY_TYPED" in held) == (version != "8.6")
    assert ("BuilderFlag.FP16" in held) == (version != "11.4")
