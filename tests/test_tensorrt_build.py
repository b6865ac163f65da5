"""The builder half on the real builder: TensorRT-RTX builds engines without a GPU, by the same calls.

Needs `pip install tensorrt-rtx` (1.5 GB), so it is not among what the tests install; where it is not, they are skipped.
It knows the GPUs of workstations and none of a Jetson, so what it shows is that our graphs and calls are right.
"""

from __future__ import annotations

from typing import Any

import pytest

from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.manifest import Graph, TensorShape
from delen.exits.runner import EngineFault
from delen.exits.tensorrt_build import Build, Kit, Messages, build_engine, make_kit, ranges_for
from delen.tests.small_bundles import graph

SM = "SM86"


@pytest.fixture(scope="module")
def kit() -> Kit:
    trt = pytest.importorskip("tensorrt_rtx", reason="builds without a GPU: pip install tensorrt-rtx")
    return make_kit(trt)


def parts(bundle: Bundle) -> list[tuple[Graph, TensorShape]]:
    """Every graph, and what it takes."""
    segments, heads = bundle.manifest.segments, bundle.manifest.heads
    before = [bundle.manifest.input, *(segment.output for segment in segments)]
    return [*zip(segments, before, strict=False), *zip(heads, before[1:], strict=True)]


def built(kit: Kit, build: Build, said: list[str]) -> bytes:
    def for_a_gpu_that_is_not_here(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(kit.trt.ComputeCapability, SM), 0)

    return build_engine(kit, build, said.append, configure=for_a_gpu_that_is_not_here)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "fashion", "identity-3k", "identity-600k"])
def test_every_graph_that_ships_becomes_an_engine(name: str, kit: Kit) -> None:
    bundle = load_bundle(shipped_directory() / name)
    for part, taken in parts(bundle):
        said: list[str] = []
        build = Build(part.file, bundle.read(part.file), taken, bundle.manifest.precision, ranges_for(32))
        assert len(built(kit, build, said)) > 100_000
        assert said[0] == f"building an engine for {part.file}"
        assert any("step" in line for line in said), "the builder tells how far it is"


@pytest.mark.slow
def test_an_operator_that_tensorrt_lacks_is_named(kit: Kit) -> None:
    helper = pytest.importorskip("onnx", reason="makes graphs with onnx").helper
    strange = graph([helper.make_node("Mystery", ["input"], ["output"], domain="com.microsoft")], given=[4])
    taken = TensorShape(dtype="float32", shape=(4,))
    with pytest.raises(EngineFault, match=r"cannot read head0\.onnx: .*Mystery") as caught:
        built(kit, Build("head0.onnx", strange, taken, "fp32", ranges_for(4)), [])
    assert caught.value.kind == "unsupported"


def test_only_the_last_of_what_tensorrt_said_is_kept() -> None:
    messages = Messages()
    for number in range(50):
        messages.add(f"line {number}\nmore of it")
    said = messages.take()
    assert said[-1] == "line 49"
    assert len(said) == 20
    assert messages.take() == []
