"""Graphs in float32 -> the same graphs computing in 8-bit integers or 16-bit floats; what crosses their edges stays
float32.

Flow: `quantised(segments, heads, examples, precision)` walks the parts in order, feeding each what the ones before it
give. int8: static QDQ, weights per channel, ranges of activations from the examples (ONNX Runtime's quantiser); heads
are left in float32, since their logits are what gates compare and their cost is small. fp16: weights and arithmetic of
every part.

Does not: judge the result. Temperatures and accuracies are taken from the quantised graphs as they run
(`workspace_export.py`).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from ..clients.wire import Array
from .bundle import INPUT, OUTPUT
from .bundle_writer import Part
from .manifest import Precision

# Minimum and maximum settle soon; each further image costs a pass of the slowed-down graph.
RANGE_EXAMPLES_MAX = 256
RANGE_BATCH = 32
# Sums of what was quantised are quantised too, else every residual goes through float32.
INT8_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Relu"]


def quantised(
    segments: Sequence[Part],
    heads: Sequence[Part],
    examples: Array,
    precision: Precision,
    *,
    symmetric: bool = False,
) -> tuple[list[Part], list[Part]]:
    """The parts in another precision.

    Args:
        examples: prepared inputs like those it will see, shape (n, *input shape); int8 takes up to 256 of them.
        symmetric: int8 as TensorRT takes it, signed and with nothing but scales; x86 takes two to three times as long.
    Raises:
        onnxruntime's errors where a part cannot be run.
    """
    if precision == "fp32":
        return list(segments), list(heads)
    if precision == "fp16":
        return [_halved(part) for part in segments], [_halved(part) for part in heads]
    features = [examples[at : at + RANGE_BATCH] for at in range(0, min(len(examples), RANGE_EXAMPLES_MAX), RANGE_BATCH)]
    made = []
    for part in segments:
        made.append(_in_integers(part, features, symmetric=symmetric))
        run = onnxruntime.InferenceSession(part.data, providers=["CPUExecutionProvider"]).run
        features = [run([OUTPUT], {INPUT: batch})[0] for batch in features]
    return made, list(heads)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the quantiser one batch after the other."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _in_integers(part: Part, batches: Sequence[Array], *, symmetric: bool) -> Part:
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.onnx"
        quantize_static(
            onnx.load_model_from_string(part.data),
            path,
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=INT8_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "QuantizeBias": False} if symmetric else {},
        )
        return _plain(path.read_bytes(), part)


def _halved(part: Part) -> Part:
    with _quiet():
        model = convert_float_to_float16(onnx.load_model_from_string(part.data), keep_io_types=True)
    return _plain(model.SerializeToString(), part)


def _plain(data: bytes, part: Part) -> Part:
    """Without the notes of the tools that made it, and with the ports that the bundle promises."""
    model = onnx.load_model_from_string(data)
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "delen", "", ""
    before = onnx.load_model_from_string(part.data)
    for ports, kept in ((model.graph.input, before.graph.input), (model.graph.output, before.graph.output)):
        del ports[:]
        ports.extend(kept)
    del model.graph.value_info[:]
    _sort(model.graph)
    domains = {node.domain for node in model.graph.node}
    used = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
    model.ir_version = before.ir_version
    onnx.checker.check_model(model, full_check=True)
    return Part(model.SerializeToString(deterministic=True), part.output)


def _sort(graph: Any) -> None:
    """Every node after those it takes from: the converter appends its casts at the end."""
    known = {"", *(tensor.name for tensor in graph.initializer), *(port.name for port in graph.input)}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        assert ready, "a graph that runs has no cycle"
        # Nodes with graphs inside take more than their inputs say; networks here have none (`computation.py`).
        known.update(name for node in ready for name in node.output)
        ordered += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice to the root logger, and its converter warns of every weight it rounds to 0."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
