"""A workspace becomes a bundle that says of its exits what its own graphs gave, in every precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'delen[train]'")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it: pip install 'delen[train]'")
pytest.importorskip("onnxruntime", reason="exports are checked with it: pip install 'delen[onnx]'")

import torch  # noqa: E402  (after the skips above)
from torch import nn  # noqa: E402

from delen.clients.info import Preprocessing  # noqa: E402
from delen.exits import workspace_export  # noqa: E402
from delen.exits.bundle import Bundle, load_bundle  # noqa: E402
from delen.exits.bundle_logits import bundle_logits  # noqa: E402
from delen.exits.datasets import DataError, Labelled, Split  # noqa: E402
from delen.exits.export import ExportError, export_graphs  # noqa: E402
from delen.exits.manifest import Precision, TensorShape  # noqa: E402
from delen.exits.measured_bundle import Measured, Step  # noqa: E402
from delen.exits.multi_exit import MultiExit  # noqa: E402
from delen.exits.onnx_runner import OnnxRunner  # noqa: E402
from delen.exits.quantise import quantised  # noqa: E402
from delen.exits.workspace import Workspace  # noqa: E402
from delen.exits.workspace_export import ExportOrder, export_measured  # noqa: E402

CLASSES = ("a", "b", "c")
pytestmark = pytest.mark.slow


def network() -> MultiExit:
    """Two exits with random weights, a strided and a residual part, as classifiers of pictures have."""
    torch.manual_seed(3)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

        def forward(self, features: Any) -> Any:
            return torch.relu(features + self.body(features))

    def head() -> Any:
        return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 3))

    made = MultiExit([nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), Residual()], [head(), head()])
    return made.eval()


def workspace() -> Workspace:
    return Workspace(
        network=network(),
        source="zoo:none",
        at=("stem",),
        head="pool",
        classes=CLASSES,
        input=TensorShape(dtype="float32", shape=(3, 8, 8)),
        preprocessing=Preprocessing(colour="rgb", scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
        provenance={"training": "none"},
    )


def data() -> Split:
    """Pictures with the labels that the network's own last exit gives, but every fifth."""
    images = np.random.default_rng(1).integers(0, 256, (400, 3, 8, 8), dtype=np.uint8)
    rule = workspace().preprocessing
    mean, std = (np.array(one, np.float32).reshape(3, 1, 1) for one in (rule.mean, rule.std))
    with torch.inference_mode():
        logits = network()(torch.from_numpy((images / np.float32(255) - mean) / std))
    labels = logits[-1].argmax(1).numpy()
    labels[::5] = (labels[::5] + 1) % 3
    parts = [Labelled(images[rows], labels[rows]) for rows in (slice(0, 100), slice(100, 300), slice(300, 400))]
    return Split(parts[0], parts[1], parts[2], CLASSES)


@pytest.fixture(scope="module", params=get_args(Precision))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    out = tmp_path_factory.mktemp(request.param) / "small.bundle"
    order = ExportOrder(workspace=Path("small"), data="made-up", out=out, precision=request.param)
    return export_measured(workspace(), data(), order, lambda step: None)


def test_a_bundle_says_what_its_own_graphs_gave(exported: Measured) -> None:
    bundle = load_bundle(exported.bundle.directory)
    split = data()
    logits = bundle_logits(bundle, split.calibration.images, OnnxRunner())
    right = logits.argmax(2) == split.calibration.labels
    record = bundle.calibration()
    assert record is not None
    assert np.array_equal(record.correct, right.T)
    assert [entry.accuracy for entry in bundle.manifest.exits] == pytest.approx(right.mean(axis=1), abs=1e-6)
    assert exported.tested[-1] == pytest.approx(0.8, abs=0.05)
    assert bundle.manifest.name == "small"
    assert bundle.manifest.provenance["training"] == "none"


def test_a_quantised_bundle_computes_in_its_precision_and_says_so(exported: Measured) -> None:
    manifest = exported.bundle.manifest
    graph = onnx.load_model_from_string(exported.bundle.read(manifest.segments[0].file)).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    operators = {node.op_type for node in graph.node}
    types = onnx.TensorProto
    if manifest.precision == "fp32":
        assert kinds == {types.FLOAT}
    elif manifest.precision == "fp16":
        assert kinds == {types.FLOAT16}
    else:
        assert "QuantizeLinear" in operators
        assert types.INT8 in kinds
    assert ('precision = "' in (exported.bundle.directory / "network.toml").read_text()) == (
        manifest.precision != "fp32"
    )
    # The same products, however they are computed.
    assert [entry.gmac for entry in manifest.exits] == pytest.approx([3.48e-6, 12.72e-6], rel=0.02)


def test_every_precision_answers_nearly_as_pytorch_does(exported: Measured) -> None:
    split = data()
    logits = bundle_logits(exported.bundle, split.test.images, OnnxRunner())
    rule = workspace().preprocessing
    mean, std = (np.array(one, np.float32).reshape(3, 1, 1) for one in (rule.mean, rule.std))
    with torch.inference_mode():
        wanted = network()(torch.from_numpy((split.test.images / np.float32(255) - mean) / std)).numpy()
    most = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}[exported.bundle.manifest.precision]
    assert np.abs(logits - wanted).max() <= most * np.abs(wanted).max()


def test_progress_is_told(tmp_path: Path) -> None:
    steps: list[Step] = []
    order = ExportOrder(workspace=Path("small"), data="made-up", out=tmp_path / "small")
    export_measured(workspace(), data(), order, steps.append)
    assert [step.stage for step in steps if step.done == step.total] == ["graphs", "calibrate", "test", "write"]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_network_that_gives_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    broken = workspace()
    next(broken.network.heads[0].parameters()).data.fill_(float("nan"))
    order = ExportOrder(workspace=Path("small"), data="made-up", out=tmp_path / "small")
    with pytest.raises(ExportError, match="exit 0 gives NaN or infinity"):
        export_measured(broken, data(), order, lambda step: None)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_a_form_in_onnx_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, features: Any) -> Any:
            return features * int(features.sum() > 0)

    made = network()
    odd = MultiExit([made.segments[0], nn.Sequential(made.segments[1], Odd())], list(made.heads))
    with pytest.raises(ExportError, match="segment 1 cannot be written as ONNX"):
        export_graphs(odd, torch.randn(4, 3, 8, 8))


def test_quantising_leaves_the_parts_it_was_given_as_they_are() -> None:
    exported = export_graphs(network(), torch.randn(4, 3, 8, 8))
    before = [part.data for part in exported.segments]
    segments, heads = quantised(exported.segments, exported.heads, np.zeros((4, 3, 8, 8), np.float32), "int8")
    assert [part.data for part in exported.segments] == before
    assert all(part.data != old for part, old in zip(segments, before, strict=True))
    assert heads == exported.heads


def test_integers_for_tensorrt_are_signed_and_have_no_offsets() -> None:
    exported = export_graphs(network(), torch.rand(8, 3, 8, 8))
    segments, _ = quantised(
        exported.segments, exported.heads, np.ones((4, 3, 8, 8), np.float32), "int8", symmetric=True
    )
    for part in segments:
        graph = onnx.load_model_from_string(part.data).graph
        known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        zeros = [known[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert zeros
        assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_a_network_of_words_takes_whole_numbers(tmp_path: Path) -> None:
    """A text network's input is whole numbers; what crosses its other edges is not."""
    torch.manual_seed(1)
    words = MultiExit(
        [nn.Embedding(20, 8), nn.ReLU()],
        [nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), nn.Sequential(nn.Flatten(), nn.Linear(32, 3))],
    ).eval()
    rng = np.random.default_rng(2)
    ids, labels = rng.integers(0, 20, (120, 4)), rng.integers(0, 3, 120)
    parts = [Labelled(ids[rows], labels[rows]) for rows in (slice(0, 40), slice(40, 80), slice(80, 120))]
    split = Split(parts[0], parts[1], parts[2])
    made = dataclasses.replace(
        workspace(), network=words, input=TensorShape(dtype="int64", shape=(4,)), preprocessing=Preprocessing()
    )
    order = ExportOrder(workspace=Path("words"), data="made-up", out=tmp_path / "words")
    bundle: Bundle = export_measured(made, split, order, lambda step: None).bundle
    assert bundle.manifest.input.dtype == "int64"
    assert bundle.manifest.segments[0].output == TensorShape(dtype="float32", shape=(4, 8))


@pytest.mark.parametrize(("seed", "calibrate_on"), [("0", "test"), ("5", "train")])
def test_what_a_network_was_trained_on_is_no_data_to_certify_it_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str, calibrate_on: str
) -> None:
    trained = dataclasses.replace(workspace(), provenance={"data_seed": seed, "calibrate_on": calibrate_on})
    monkeypatch.setattr(workspace_export, "load_workspace", lambda _path: trained)
    order = ExportOrder(workspace=tmp_path, data="made-up", out=tmp_path / "b.bundle")
    with pytest.raises(DataError, match=f"--seed {seed} --calibrate-on {calibrate_on}"):
        workspace_export.export_workspace(order, lambda step: None)
