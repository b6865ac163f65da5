"""One contract for every engine: ONNX Runtime, PyTorch and the replayed profile behave the same at their edges.

The two real engines must also agree with each other in numbers, on the shipped real images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.bundle import Bundle, BundleError, load_bundle, shipped_directory
from delen.exits.runner import EngineFault, Loaded, Runner
from delen.exits.samples import load_samples, prepare
from delen.tests.fake_board import fake_tensorrt_runner
from delen.tests.small_bundles import digits_copy, first_three_graph, graph, identity_graph, one_exit

BATCH_MAX = 16
Make = Callable[[Bundle], Runner]


def onnx_engine(_: Bundle) -> Runner:
    module = pytest.importorskip("delen.exits.onnx_runner", reason="needs ONNX Runtime: pip install 'delen[onnx]'")
    runner: Runner = module.OnnxRunner()
    return runner


def torch_engine(_: Bundle) -> Runner:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")
    module = pytest.importorskip("delen.exits.torch_runner")
    runner: Runner = module.TorchRunner(device="cpu")
    return runner


def tensorrt_engine(_: Bundle) -> Runner:
    """TensorRT's runner over a stand-in for TensorRT and for the GPU: what it does with memory, streams and graphs."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'delen[onnx]'")
    return fake_tensorrt_runner("10.3")


def old_tensorrt_engine(_: Bundle) -> Runner:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'delen[onnx]'")
    return fake_tensorrt_runner("8.6")


def torch_on_cuda(_: Bundle) -> Runner:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    module = pytest.importorskip("delen.exits.torch_runner")
    runner: Runner = module.TorchRunner(device="cuda")
    return runner


def tensorrt_on_gpu(_: Bundle) -> Runner:
    pytest.importorskip("tensorrt", reason="needs TensorRT and a GPU")
    module = pytest.importorskip("delen.exits.tensorrt_runner")
    try:
        runner: Runner = module.TensorRTRunner()
    except EngineFault as fault:
        pytest.skip(str(fault))
    return runner


def replay_engine(bundle: Bundle) -> Runner:
    from delen.profiles.replay_runner import ReplayRunner
    from delen.profiles.schema import Cost, Device, ExitQuality, Profile

    def cost(us: float) -> tuple[Cost, ...]:
        return tuple(
            Cost(p50_us=us * batch, p95_us=us * batch, p99_us=us * batch, n=10, energy_mj=None) for batch in (1, 16)
        )

    exits = bundle.manifest.exits
    profile = Profile(
        format=1,
        network=bundle.manifest.name,
        network_version=bundle.manifest.version,
        bundle=bundle.digest,
        device=Device(
            board="b",
            processor="p",
            cores=1,
            power_mode=None,
            clocks_khz={},
            engine="onnxruntime",
            device="cpu",
            precision="fp32",
            threads=1,
            versions={},
        ),
        batches=(1, 16),
        segments=tuple(cost(100.0) for _ in exits),
        heads=tuple(cost(10.0) for _ in exits),
        exits=tuple(ExitQuality(accuracy=entry.accuracy, low=0.0, high=1.0, n=100) for entry in exits),
        energy_source="unknown",
        energy_model="none",
        idle_power_mw=None,
        memory_bytes=0,
        temperature_c=(None, None),
        quick=False,
        taken_wall="2025-01-01T00:00:00Z",
    )
    return ReplayRunner(profile)


# PyTorch alone takes two seconds to import.
REAL = [
    pytest.param(onnx_engine, id="onnx"),
    pytest.param(torch_engine, id="torch", marks=pytest.mark.slow),
    pytest.param(torch_on_cuda, id="torch-cuda", marks=pytest.mark.slow),
    pytest.param(tensorrt_engine, id="tensorrt-fake"),
    pytest.param(old_tensorrt_engine, id="tensorrt-8-fake"),
    pytest.param(tensorrt_on_gpu, id="tensorrt", marks=pytest.mark.slow),
]
ALL = [*REAL, pytest.param(replay_engine, id="replay")]


@pytest.fixture(scope="module")
def digits() -> Bundle:
    return load_bundle(shipped_directory() / "digits")


@pytest.fixture(scope="module")
def images(digits: Bundle) -> npt.NDArray[np.float32]:
    return prepare(load_samples("digits").images[:BATCH_MAX], digits.manifest.preprocessing)


def all_logits(loaded: Loaded[Any], batch: npt.NDArray[np.float32], exits: int) -> npt.NDArray[np.float32]:
    """Shape (exits, batch, classes)."""
    features = loaded.place(batch)
    rows = []
    for index in range(exits):
        features = loaded.segment(index, features)
        rows.append(loaded.head(index, features))
    return np.stack(rows)


@pytest.mark.parametrize("make", ALL)
def test_a_runner_says_what_a_profile_must_record(make: Make, digits: Bundle) -> None:
    runner = make(digits)
    assert all((runner.engine, runner.device, runner.precision))
    assert runner.threads == 1
    assert all(isinstance(value, str) for pair in runner.versions.items() for value in pair)


@pytest.mark.parametrize("make", ALL)
def test_segments_and_heads_chain_and_logits_are_float32_on_the_host(
    make: Make, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    logits = all_logits(make(digits).load(digits, BATCH_MAX), images, 3)
    assert isinstance(logits, np.ndarray)
    assert logits.shape == (3, BATCH_MAX, 10)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("make", ALL)
def test_a_batch_gives_what_its_rows_give_alone(make: Make, digits: Bundle, images: npt.NDArray[np.float32]) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    together = all_logits(loaded, images, 3)
    alone = np.concatenate([all_logits(loaded, images[row : row + 1], 3) for row in range(BATCH_MAX)], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("make", ALL)
def test_survivors_of_two_batches_go_on_together_in_any_order(
    make: Make, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    expected = all_logits(loaded, images, 3)
    first = loaded.segment(0, loaded.place(images[:8]))
    second = loaded.segment(0, loaded.place(images[8:]))
    merged = loaded.join([loaded.take(first, [5, 0]), loaded.take(second, [7]), loaded.take(second, range(8))])
    rows = [5, 0, 15, *range(8, 16)]
    deeper = loaded.segment(1, merged)
    np.testing.assert_allclose(loaded.head(1, deeper), expected[1, rows], atol=1e-4)
    last = loaded.segment(2, loaded.take(deeper, [2, 1]))
    np.testing.assert_allclose(loaded.head(2, last), expected[2, [15, 0]], atol=1e-4)


@pytest.mark.parametrize("make", ALL)
def test_features_stay_valid_after_they_were_used(make: Make, digits: Bundle, images: npt.NDArray[np.float32]) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    placed = loaded.place(images)
    first = loaded.segment(0, placed)
    before = loaded.head(0, first)
    second = loaded.segment(1, first)
    loaded.segment(2, second)
    loaded.segment(0, loaded.place(images[::-1]))
    loaded.finish()
    np.testing.assert_array_equal(loaded.head(0, first), before)
    np.testing.assert_array_equal(loaded.head(0, loaded.segment(0, placed)), before)
    np.testing.assert_allclose(before, all_logits(loaded, images, 3)[0], atol=1e-4)


@pytest.mark.parametrize("make", ALL)
def test_input_that_is_not_the_networks_is_refused_as_the_inputs_fault(
    make: Make, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    spoilt = images.copy()
    spoilt[3, 0, 2, 2] = np.nan
    endless = images.copy()
    endless[0, 0, 0, 0] = np.inf
    for batch, words in (
        (images.astype(np.float64), "expected float32"),
        (images[:, :, :7], "expected float32"),
        (images[:, 0], "expected float32"),
        (images[:0], "expected 1 to 16"),
        (np.concatenate([images, images]), "a batch of 32 rows; expected 1 to 16"),
        (spoilt, "row 3 of the batch holds NaN or infinity"),
        (endless, "row 0 of the batch holds NaN or infinity"),
    ):
        with pytest.raises(EngineFault, match=words) as caught:
            loaded.place(batch)
        assert caught.value.kind == "input"


@pytest.mark.parametrize("make", ALL)
def test_huge_but_finite_values_are_not_taken_for_infinite(make: Make, digits: Bundle) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    loaded.place(np.full((4, 1, 8, 8), 3e38, np.float32))


@pytest.mark.parametrize("make", ALL)
def test_rows_and_batches_that_cannot_be_are_refused(
    make: Make, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    features = loaded.segment(0, loaded.place(images[:12]))
    attempts: list[Callable[[], object]] = [
        lambda: loaded.take(features, []),
        lambda: loaded.take(features, [12]),
        lambda: loaded.take(features, [-1]),
        lambda: loaded.join([features, features]),
    ]
    for attempt in attempts:
        with pytest.raises(EngineFault) as caught:
            attempt()
        assert caught.value.kind == "input"


@pytest.mark.parametrize("make", REAL)
def test_an_input_that_lies_scattered_in_memory_is_read_right(
    make: Make, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = make(digits).load(digits, BATCH_MAX)
    turned = images.swapaxes(2, 3)
    np.testing.assert_allclose(
        all_logits(loaded, turned, 3), all_logits(loaded, np.ascontiguousarray(turned), 3), atol=1e-5
    )


@pytest.mark.parametrize("make", REAL)
def test_an_operator_that_the_engine_lacks_is_named(make: Make, tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx", reason="makes graphs with onnx").helper
    strange = graph([helper.make_node("Mystery", ["input"], ["output"], domain="com.microsoft")], given=[4])
    bundle = one_exit(tmp_path, strange, first_three_graph())
    with pytest.raises(EngineFault, match="Mystery") as caught:
        make(bundle).load(bundle, BATCH_MAX)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("make", REAL)
def test_a_graph_whose_fault_cannot_be_said_in_utf_8_is_still_only_a_fault(make: Make, tmp_path: Path) -> None:
    """The engine quotes what the node wants to read, and in the quotation are bytes that are no text."""
    bundle = one_exit(tmp_path, identity_graph().replace(b"input", b"in\xffut", 1), first_three_graph())
    with pytest.raises(EngineFault) as caught:
        make(bundle).load(bundle, BATCH_MAX)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("make", REAL)
def test_a_head_that_gives_infinity_is_not_trusted(make: Make, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes graphs with onnx")
    zero = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "zero")
    ends = [
        onnx.numpy_helper.from_array(np.array([n], np.int64), key) for key, n in (("from", 0), ("to", 3), ("axis", 1))
    ]
    nodes = [
        onnx.helper.make_node("Slice", ["input", "from", "to", "axis"], ["three"]),
        onnx.helper.make_node("Div", ["three", "zero"], ["output"]),
    ]
    bundle = one_exit(tmp_path, identity_graph(), graph(nodes, given=[3], constants=[zero, *ends]))
    loaded = make(bundle).load(bundle, BATCH_MAX)
    features = loaded.segment(0, loaded.place(np.ones((2, 4), np.float32)))
    with pytest.raises(EngineFault, match="NaN or infinity") as caught:
        loaded.head(0, features)
    assert caught.value.kind == "output"


@pytest.mark.parametrize("make", REAL)
@pytest.mark.parametrize("place", ["segment", "head"])
def test_a_graph_that_gives_another_shape_than_it_says_is_not_trusted(make: Make, place: str, tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx", reason="makes graphs with onnx").helper
    # Its width is left open in the file, so only running it shows that it is 8.
    wide = graph([helper.make_node("Concat", ["input", "input"], ["output"], axis=1)], given=["open"])
    bundle = one_exit(
        tmp_path,
        wide if place == "segment" else identity_graph(),
        wide if place == "head" else first_three_graph(),
    )
    loaded = make(bundle).load(bundle, BATCH_MAX)
    with pytest.raises(EngineFault, match="gave shape") as caught:
        loaded.head(0, loaded.segment(0, loaded.place(np.ones((2, 4), np.float32))))
    assert caught.value.kind == "output"


@pytest.mark.parametrize("make", REAL)
def test_a_graph_swapped_after_the_check_is_not_loaded(make: Make, tmp_path: Path) -> None:
    bundle = load_bundle(digits_copy(tmp_path))
    (bundle.directory / "head0.onnx").write_bytes((bundle.directory / "head1.onnx").read_bytes())
    with pytest.raises(BundleError, match="SHA-256"):
        make(bundle).load(bundle, BATCH_MAX)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_real_engines_agree_on_real_images(name: str) -> None:
    bundle = load_bundle(shipped_directory() / name)
    samples = prepare(load_samples(name).images[:BATCH_MAX], bundle.manifest.preprocessing)
    exits = len(bundle.manifest.exits)
    by_onnx = all_logits(onnx_engine(bundle).load(bundle, BATCH_MAX), samples, exits)
    by_torch = all_logits(torch_engine(bundle).load(bundle, BATCH_MAX), samples, exits)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)


def test_digits_is_as_accurate_here_as_its_manifest_says(digits: Bundle) -> None:
    labelled = load_samples("digits")
    batch = prepare(labelled.images, digits.manifest.preprocessing)
    logits = all_logits(onnx_engine(digits).load(digits, len(batch)), batch, 3)
    shares = (logits.argmax(2) == labelled.labels).mean(axis=1)
    assert digits.manifest.provenance["test_accuracy"].startswith(" ".join(f"{share:.4f}" for share in shares))


@pytest.mark.parametrize("make", REAL)
@pytest.mark.parametrize("name", ["identity-3k", "identity-600k"])
def test_identity_gives_back_the_first_ten_values(make: Make, name: str) -> None:
    bundle = load_bundle(shipped_directory() / name)
    loaded = make(bundle).load(bundle, 2)
    batch = np.arange(2 * np.prod(bundle.manifest.input.shape), dtype=np.float32).reshape(
        2, *bundle.manifest.input.shape
    )
    logits = loaded.head(0, loaded.segment(0, loaded.place(batch)))
    np.testing.assert_array_equal(logits, batch.reshape(2, -1)[:, :10])
