"""Multiply-adds are counted as by hand, for any graph whose shapes are known, and never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="counts what onnx reads: pip install 'delen[torch]'")

from delen.exits.bundle import load_bundle, shipped_directory  # noqa: E402  (after the skip above)
from delen.exits.computation import exit_gmac, multiply_adds  # noqa: E402
from delen.tests.small_bundles import graph, identity_graph  # noqa: E402


def node(kind: str, *inputs: str, output: str = "output", **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, list(inputs), [output], **attributes)


def weight(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def sides(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(np.array(shape, np.int64), name)


def convolution(pixels: int, width_in: int, width_out: int, kernel: int = 3) -> int:
    return pixels * width_out * width_in * kernel * kernel


def residual(width_in: int, width_out: int) -> int:
    """Two 3x3 convolutions at 14 x 14, and a 1x1 one on the shortcut where the width changes."""
    pixels = 14 * 14
    shortcut = convolution(pixels, width_in, width_out, 1) if width_in != width_out else 0
    return convolution(pixels, width_in, width_out) + convolution(pixels, width_out, width_out) + shortcut


def test_the_exits_of_fashion_cost_what_its_architecture_says() -> None:
    stem = convolution(28 * 28, 1, 32) + convolution(14 * 14, 32, 64) + convolution(14 * 14, 64, 64)
    segments = [stem, residual(64, 96), 2 * residual(96, 96), residual(96, 104) + residual(104, 104)]
    # Average pooling leaves 2 x 2 cells, and ten classes.
    heads = [width * 4 * 10 for width in (64, 96, 96, 104)]
    by_hand = [(sum(segments[: k + 1]) + head) / 1e9 for k, head in enumerate(heads)]
    manifest = load_bundle(shipped_directory() / "fashion").manifest
    assert [entry.gmac for entry in manifest.exits] == pytest.approx(by_hand, rel=1e-12)
    assert by_hand[-1] == pytest.approx(0.181, abs=0.001)


@pytest.mark.parametrize("name", ["digits", "fashion", "identity-3k", "identity-600k"])
def test_shipped_manifests_say_what_their_graphs_count(name: str) -> None:
    bundle = load_bundle(shipped_directory() / name)
    segments = [bundle.read(part.file) for part in bundle.manifest.segments]
    heads = [bundle.read(part.file) for part in bundle.manifest.heads]
    assert exit_gmac(segments, heads) == tuple(entry.gmac for entry in bundle.manifest.exits)


@pytest.mark.parametrize(
    ("nodes", "constants", "by_hand"),
    [
        ([node("Relu", "input")], [], 0),
        ([node("MatMul", "input", "w")], [weight("w", 4, 3)], 4 * 3),
        ([node("Gemm", "input", "w", transB=1)], [weight("w", 3, 4)], 4 * 3),
        (
            [node("Transpose", "input", output="t", perm=[1, 0]), node("Gemm", "t", "w", transA=1)],
            [weight("w", 4, 3)],
            4 * 3,
        ),
        # 4 values as 4 channels of one pixel, in 2 groups of 2: 6 outputs of 2 products each.
        (
            [
                node("Reshape", "input", "s", output="r"),
                node("Conv", "r", "w", group=2, output="c"),
                node("Flatten", "c"),
            ],
            [sides("s", 0, 4, 1, 1), weight("w", 6, 2, 1, 1)],
            6 * 2,
        ),
        # 4 values as 2 channels of 2 pixels, each spread over 3 channels by a kernel of 5.
        (
            [
                node("Reshape", "input", "s", output="r"),
                node("ConvTranspose", "r", "w", output="c"),
                node("Flatten", "c"),
            ],
            [sides("s", 0, 2, 2), weight("w", 2, 3, 5)],
            4 * 3 * 5,
        ),
        # Attention as graphs write it: 2 x 2 times 2 x 2, batch by batch.
        (
            [node("Reshape", "input", "s", output="r"), node("MatMul", "r", "r", output="m"), node("Flatten", "m")],
            [sides("s", 0, 2, 2)],
            2 * 2 * 2,
        ),
    ],
)
def test_each_operator_counts_as_by_hand(nodes: list[Any], constants: list[Any], by_hand: int) -> None:
    assert multiply_adds(graph(nodes, given=["wide"], constants=constants)) == by_hand


def test_what_cannot_be_counted_is_unknown_and_not_zero() -> None:
    einsum = graph([node("Einsum", "input", "w", equation="bi,io->bo")], given=[3], constants=[weight("w", 4, 3)])
    foreign = graph([node("FusedConv", "input", domain="com.example")], given=[4])
    # How many rows there are is known only once the input is.
    rows = [node("NonZero", "input", output="n"), node("Cast", "n", to=1, output="f"), node("MatMul", "w", "f")]
    open_sides = graph(rows, given=["many"], constants=[weight("w", 3, 2)])
    for data in (einsum, foreign, open_sides):
        assert multiply_adds(data) is None
        assert exit_gmac([identity_graph(), data], [identity_graph()] * 2) == (0.0, None)
        assert exit_gmac([identity_graph()] * 2, [data, identity_graph()]) == (None, 0.0)
