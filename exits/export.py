"""PyTorch network -> bundle: one ONNX file per segment and head, compared with PyTorch before it appears.

Flow: fold batch norms -> export each part alone with an open batch -> strip what inference does not need -> count
multiply-adds -> write, load with ONNX Runtime and compare every exit on real inputs -> rename into place. Also makes
the identity bundles, whose inference costs next to nothing, so that what remains is delen's own overhead.

Does not: train, calibrate (`calibrate.py`), or write files itself (`bundle_writer.py`).
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..clients.info import Preprocessing
from ..clients.wire import Array
from .bundle import INPUT, OUTPUT, Bundle
from .bundle_writer import Description, Part, refuse_overwrite, write_bundle
from .computation import exit_gmac
from .manifest import ExitEntry, TensorShape
from .multi_exit import MultiExit
from .onnx_runner import OnnxRunner

# Read by every ONNX Runtime since 1.14 (IR 8) and TensorRT since 8.6: boards are not on the newest.
OPSET, IR_VERSION = 18, 8
PARITY_MAX = 1e-4
EXAMPLES_MAX = 256
IDENTITY_SHAPES = {"identity-3k": (784,), "identity-600k": (3, 224, 224)}
IDENTITY_CLASSES = tuple("0123456789")


class ExportError(RuntimeError):
    """The exported graphs do not give what PyTorch gives; the text says where."""


class Exported(NamedTuple):
    """A network as graphs, not yet on disk. `examples` (n, *input shape) and what PyTorch gave for them, `wanted`
    (exits, n, classes), are what every bundle made of it is compared on.
    """

    segments: list[Part]
    heads: list[Part]
    examples: Array
    wanted: Array


def export_network(
    network: MultiExit,
    description: Description,
    examples: Tensor,
    out: Path,
    *,
    calibration: bytes | None = None,
    replace: bool = False,
) -> Bundle:
    """Export a trained network to `out`.

    Args:
        description: the multiply-adds of its exits are filled in here.
        examples: real inputs, shape (n, *input shape), n >= 2; up to 256 of them are compared.
        calibration: contents of `calibration.npz`.
    Raises:
        ExportError: an exit differs from PyTorch by more than 1e-4 of its largest logit, or in a label; or it has an
            operator that cannot be written as ONNX.
        FileExistsError: see `write_bundle`.
    """
    refuse_overwrite(out, replace=replace)
    exported = export_graphs(network, examples)
    return write_bundle(
        out,
        counted(description, exported.segments, exported.heads),
        segments=exported.segments,
        heads=exported.heads,
        calibration=calibration,
        replace=replace,
        check=lambda bundle: check_parity(bundle, exported.examples, exported.wanted),
    )


def export_graphs(network: MultiExit, examples: Tensor) -> Exported:
    """The parts as ONNX files in memory, in float32; the network stays as it is. Raises ExportError."""
    examples = examples[:EXAMPLES_MAX]
    # Training leaves weights channels-last, and the exporter writes other nodes for that: one layout, one file.
    plain = copy.deepcopy(network).cpu().float().eval()
    plain = plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.inference_mode():
        wanted = plain(examples).numpy()
    for index, logits in enumerate(wanted):
        if not np.isfinite(logits).all():
            raise ExportError(
                f"exit {index} gives NaN or infinity for real inputs; the network is broken: train it again"
            )
    fold_norms(plain)
    segments, heads = [], []
    # The exporter takes a batch of 1 for a constant, so it is shown 2.
    features = examples[:2]
    for index, (segment, head) in enumerate(zip(plain.segments, plain.heads, strict=True)):
        part, features = _export_part(segment, features, f"segment {index}")
        segments.append(part)
        heads.append(_export_part(head, features, f"head {index}")[0])
    return Exported(segments, heads, examples.numpy(), wanted)


def check_parity(bundle: Bundle, examples: Array, wanted: Array) -> None:
    """Compare a bundle with what PyTorch gave: `examples` (n, *input shape), `wanted` (exits, n, classes), float32.

    Raises:
        ExportError: naming the exit and the difference.
    """
    loaded = OnnxRunner().load(bundle, len(examples))
    features = loaded.place(examples)
    for index, logits in enumerate(wanted):
        features = loaded.segment(index, features)
        given = loaded.head(index, features)
        scale = max(1.0, float(np.abs(logits).max()))
        difference = float(np.abs(given - logits).max()) / scale
        labels_differ = int((given.argmax(1) != logits.argmax(1)).sum())
        if difference > PARITY_MAX or labels_differ:
            raise ExportError(
                f"exit {index} of {bundle.manifest.name} differs from PyTorch by {difference:.2g} of its largest logit "
                f"and in {labels_differ} of {len(examples)} labels; expected at most {PARITY_MAX:g} and none: "
                "an operator was exported wrongly, try another torch or opset"
            )


def fold_norms(module: nn.Module) -> None:
    """Fold batch norms into their neighbour in a Sequential, in place; eval mode: one that directly follows a
    convolution, and one that directly precedes a linear layer, where an engine would compute it for every request.
    """
    for child in module.children():
        fold_norms(child)
    if not isinstance(module, nn.Sequential):
        return
    for index in range(len(module) - 1):
        first, second = module[index], module[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            module[index] = fuse_conv_bn_eval(first, second)
            module[index + 1] = nn.Identity()
        elif isinstance(first, nn.BatchNorm1d) and isinstance(second, nn.Linear):
            module[index] = nn.Identity()
            module[index + 1] = _behind_norm(first, second)


def _behind_norm(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """One linear layer that does what the norm and the linear layer behind it did."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.affine:
        shift = shift + norm.bias
    made = nn.Linear(linear.in_features, linear.out_features)
    weight = linear.weight.detach()
    made.weight = nn.Parameter((weight * scale).detach())
    made.bias = nn.Parameter((linear(torch.zeros(linear.in_features)) + weight @ shift).detach())
    return made.eval()


def export_identity(name: str, out: Path, *, replace: bool = False) -> Bundle:
    """Write one of the identity bundles, by name: its segment gives the input back, its head the first ten values.

    Its label is by definition the largest of those ten, so its accuracy is 1.
    """
    shape = IDENTITY_SHAPES[name]
    classes = len(IDENTITY_CLASSES)
    ends = [
        numpy_helper.from_array(np.array([value], np.int64), key)
        for key, value in (("from", 0), ("to", classes), ("axis", 1))
    ]
    head = [
        helper.make_node("Flatten", [INPUT], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], [OUTPUT]),
    ]
    description = Description(
        name=name,
        version="1",
        licence="Apache-2.0",
        classes=IDENTITY_CLASSES,
        input=TensorShape(dtype="float32", shape=shape),
        preprocessing=Preprocessing(),
        exits=(ExitEntry(accuracy=1.0, temperature=1.0),),
        provenance={
            "purpose": f"measures delen's own overhead; the answer to {4 * math.prod(shape)} bytes is their first 40",
        },
    )
    taken, logits = description.input, TensorShape(dtype="float32", shape=(classes,))
    segments = [_graph([helper.make_node("Identity", [INPUT], [OUTPUT])], [], taken, taken)]
    heads = [_graph(head, ends, taken, logits)]
    return write_bundle(out, counted(description, segments, heads), segments=segments, heads=heads, replace=replace)


def counted(description: Description, segments: list[Part], heads: list[Part]) -> Description:
    """The description with the multiply-adds of every exit, where they can be counted."""
    counts = exit_gmac([part.data for part in segments], [part.data for part in heads])
    exits = zip(description.exits, counts, strict=True)
    return description._replace(exits=tuple(msgspec.structs.replace(entry, gmac=count) for entry, count in exits))


def _export_part(module: nn.Module, example: Tensor, what: str) -> tuple[Part, Tensor]:
    """One part as ONNX, and what it gives for `example`."""
    with torch.inference_mode():
        given = module(example)
    # Its output is the next part's input; inference tensors may not be traced.
    example, given = example.clone(), given.contiguous().clone()
    try:
        with _exporter_quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"{what} cannot be written as ONNX: {_reason(error)}; expected operators with a form in opset {OPSET} and "
            "an open batch: exit elsewhere, or write that module with other operators"
        ) from error
    assert program is not None
    model = program.model_proto
    initializers = [_plain_tensor(tensor) for tensor in model.graph.initializer]
    nodes = [_plain_node(node) for node in model.graph.node]
    return _graph(nodes, initializers, _shape_of(example), _shape_of(given)), given


def _shape_of(batch: Tensor) -> TensorShape:
    return TensorShape(dtype=str(batch.dtype).removeprefix("torch."), shape=tuple(batch.shape[1:]))


def _reason(error: Exception) -> str:
    """The first cause in its own words: what the exporter says itself is a page of advice."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)[:300]


def _graph(nodes: list[Any], initializers: list[Any], taken: TensorShape, given: TensorShape) -> Part:
    ports = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), ["batch", *tensor.shape]
        )
        for name, tensor in ((INPUT, taken), (OUTPUT, given))
    ]
    graph = helper.make_graph(nodes, "part", ports[:1], ports[1:], initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="delen"
    )
    onnx.checker.check_model(model, full_check=True)
    return Part(model.SerializeToString(deterministic=True), given)


def _plain_node(node: Any) -> Any:
    """The node without stack traces and other notes of the exporter: they hold paths of the machine it ran on."""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.ClearField("doc_string")
    plain.ClearField("metadata_props")
    return plain


def _plain_tensor(tensor: Any) -> Any:
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


@contextmanager
def _exporter_quiet() -> Iterator[None]:
    """The exporter logs and warns about packages that these networks do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
