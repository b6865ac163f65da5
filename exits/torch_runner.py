"""PyTorch as an engine: CUDA boards without TensorRT, and the CPU for development and for checking the other engines.

Role: one of the implementations of `runner.py`'s Runner. It reads the bundle's ONNX graphs and runs them with the
calls of `torch_ops.py`: weights come as numbers, and no code from the bundle is run. Features are tensors on the
device. On CUDA the steps are recorded as CUDA graphs at load (`torch_recording.py`), inputs and row numbers go through
pinned memory, and nothing waits for the device but a head and `finish`. Bundles in fp16, calibrated as such, run with
channels last there, which is what half-precision kernels are written for.

Does not: compile, or choose precisions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from .bundle import INPUT, OUTPUT, Bundle
from .engine_checks import check_batch, check_count, check_logits, check_rows, usual_batches
from .manifest import Graph, TensorShape
from .runner import EngineFault, FaultKind, Logits
from .torch_ops import TABLE, Node, Step, UnsupportedOperator, step_of
from .torch_recording import Recording, record

Array: TypeAlias = npt.NDArray[Any]

OPSET_MIN, OPSET_MAX = 13, 22
_MISSING = np.empty(0, np.float32)


class TorchRunner:
    """PyTorch on `device`: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU where there is one)."""

    engine = "torch"
    precision = "fp32"

    def __init__(self, threads: int = 1, device: str = "auto") -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            raise EngineFault("device", f"no device {device!r}; expected auto, cpu, cuda, or cuda:1 for the second GPU")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineFault("device", f"no device {device!r}: this PyTorch sees no GPU; use device cpu")
        self.device = device
        self.threads = threads
        self.versions: Mapping[str, str] = {"torch": str(torch.__version__), "numpy": np.__version__}
        if device.startswith("cuda"):
            self.versions = {**self.versions, "cuda": str(torch.version.cuda)}
            # TF32 has ten bits for what was calibrated with 23; whoever wants speed for bits exports in fp16.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        # One setting for the process: a worker has one engine.
        torch.set_num_threads(threads)

    def load(self, bundle: Bundle, batch_max: int) -> LoadedTorch:
        """Build both kinds of graph. Raises EngineFault `unsupported` or `memory`, BundleError where a file changed."""
        device = torch.device(self.device)
        try:
            segments = [_build(bundle, graph, device) for graph in bundle.manifest.segments]
            heads = [_build(bundle, graph, device) for graph in bundle.manifest.heads]
            if device.type == "cuda":
                _record_all(bundle, segments, heads, batch_max, device)
        except torch.OutOfMemoryError as error:
            raise EngineFault("memory", f"no memory to load {bundle.manifest.name}; load fewer networks") from error
        return LoadedTorch(segments, heads, taken=bundle.manifest.input, batch_max=batch_max, device=device)


class LoadedTorch:
    """One network in PyTorch. Features are tensors, never written to once made."""

    def __init__(
        self,
        segments: list[_Program],
        heads: list[_Program],
        *,
        taken: TensorShape,
        batch_max: int,
        device: torch.device,
    ) -> None:
        self._segments = segments
        self._heads = heads
        self._taken = taken
        self._batch_max = batch_max
        self._device = device

    def place(self, images: Array) -> Tensor:
        check_batch(images, self._taken, self._batch_max)
        with torch.inference_mode(), _Translated("place"):
            if self._device.type == "cpu":
                return torch.tensor(np.ascontiguousarray(images))
            # PyTorch keeps pinned memory from being used again before the device has read it.
            staged = torch.empty(images.shape, dtype=_dtype(self._taken), pin_memory=True)
            staged.numpy()[...] = images
            return staged.to(self._device, non_blocking=True)

    def segment(self, index: int, features: Tensor) -> Tensor:
        return self._segments[index].run(features)

    def head(self, index: int, features: Tensor) -> Logits:
        head = self._heads[index]
        with _Translated(head.file):
            logits: Logits = head.run(features).cpu().numpy()
        check_logits(logits, len(features), head.shape[0])
        return logits

    def take(self, features: Tensor, rows: Sequence[int]) -> Tensor:
        check_rows(rows, len(features), self._batch_max)
        if len(rows) == len(features) and all(row == place for place, row in enumerate(rows)):
            return features
        with torch.inference_mode(), _Translated("take"):
            if self._device.type == "cpu":
                return features[list(rows)]
            numbers = torch.tensor(list(rows), pin_memory=True).to(self._device, non_blocking=True)
            return features.index_select(0, numbers)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        check_count(sum(map(len, parts)), self._batch_max)
        if len(parts) == 1:
            return parts[0]
        with torch.inference_mode(), _Translated("join"):
            return torch.cat(list(parts))

    def finish(self) -> None:
        if self._device.type == "cuda":
            with _Translated("finish"):
                torch.cuda.synchronize(self._device)


class _Call(NamedTuple):
    """One step: `inputs` and `output` are places in the list of values."""

    step: Step
    inputs: tuple[int, ...]
    output: int


class _Program:
    """One ONNX graph as PyTorch calls in order."""

    def __init__(
        self, file: str, shape: tuple[int, ...], calls: list[_Call], values: list[Tensor | None], result: int
    ) -> None:
        self.file = file
        self.shape = shape
        self._calls = calls
        self._values = values
        self._result = result
        self.recording: Recording | None = None

    def run(self, features: Tensor) -> Tensor:
        with torch.inference_mode(), _Translated(self.file):
            replayed = None if self.recording is None else self.recording.replay(features)
            output = self.steps(features) if replayed is None else replayed
        if output.shape[1:] != self.shape or len(output) != len(features):
            raise EngineFault(
                "output",
                f"{self.file} gave shape {list(output.shape)}; expected [{len(features)}, "
                f"{', '.join(map(str, self.shape))}]: the bundle's graph is not what its manifest says",
            )
        return output

    def steps(self, features: Tensor) -> Tensor:
        values: list[Any] = self._values.copy()
        values[0] = features
        for step, inputs, output in self._calls:
            values[output] = step([values[place] for place in inputs])
        result: Tensor = values[self._result]
        return result


def _record_all(
    bundle: Bundle, segments: Sequence[_Program], heads: Sequence[_Program], batch_max: int, device: torch.device
) -> None:
    """Recordings of every segment and head, on one pool of memory. Raises torch.OutOfMemoryError, EngineFault."""
    manifest = bundle.manifest
    before = [manifest.input, *(graph.output for graph in manifest.segments)]
    layout = _layout(bundle, device)
    pool = torch.cuda.graph_pool_handle()
    for program, taken in (*zip(segments, before, strict=False), *zip(heads, before[1:], strict=True)):
        with torch.inference_mode(), _Translated(program.file):
            zeros = torch.zeros((batch_max, *taken.shape), dtype=_dtype(taken), device=device)
            if zeros.ndim == 4:
                zeros = zeros.contiguous(memory_format=layout)
            program.recording = record(program.steps, zeros, usual_batches(batch_max), pool)


def _layout(bundle: Bundle, device: torch.device) -> torch.memory_format:
    """How images and weights lie: channels last for half precision on a GPU; elsewhere that gains nothing."""
    half = bundle.manifest.precision == "fp16" and device.type == "cuda"
    return torch.channels_last if half else torch.contiguous_format


def _dtype(tensor: TensorShape) -> torch.dtype:
    return torch.from_numpy(np.empty(0, tensor.dtype)).dtype


def _build(bundle: Bundle, graph: Graph, device: torch.device) -> _Program:
    """Turn one ONNX file into a program. Values: place 0 is the input, then constants, then what the steps give."""
    where = bundle.directory / graph.file
    raw = bundle.read(graph.file)
    try:
        # Settles that it parses and that every node's inputs come before it, so that the steps below can trust it.
        onnx.checker.check_model(raw)
        model = onnx.load_model_from_string(raw)
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0][:300]
        raise EngineFault("unsupported", f"{where} is not a sound ONNX model: {reason}; export it again") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OPSET_MIN <= opset <= OPSET_MAX:
        raise EngineFault(
            "unsupported", f"{where} uses opset {opset}; expected {OPSET_MIN} to {OPSET_MAX}: export again"
        )
    constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    places: dict[str, int] = {INPUT: 0}
    values: list[Tensor | None] = [None]
    layout = _layout(bundle, device)
    calls: list[_Call] = []

    def place_of(name: str) -> int:
        if name not in places:
            constant = constants.get(name) if name else None
            places[name] = len(values)
            # A copy: what protobuf holds is read-only.
            value = None if constant is None else torch.from_numpy(np.array(constant)).to(device)
            if value is not None and value.ndim == 4:
                value = value.contiguous(memory_format=layout)
            values.append(value)
        return places[name]

    for node in model.graph.node:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        known = tuple(constants.get(name) if name else _MISSING for name in node.input)
        try:
            if node.domain not in ("", "ai.onnx"):
                raise UnsupportedOperator(
                    f"operator {node.domain}.{node.op_type}; supported are {', '.join(sorted(TABLE))}"
                )
            step = step_of(Node(node.op_type, attributes, known))
        except (UnsupportedOperator, KeyError, TypeError) as error:
            raise EngineFault(
                "unsupported", f"{where}: {error}; use the onnx engine, or export it differently"
            ) from error
        calls.append(_Call(step, tuple(place_of(name) for name in node.input), place_of(node.output[0])))
    return _Program(graph.file, graph.output.shape, calls, values, place_of(OUTPUT))


class _Translated:
    """Turns PyTorch's errors into faults, at this one edge; `where` is the graph's file or what was being done."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            raise EngineFault("memory", f"no memory in {self._where}; a smaller batch may do") from error
        if isinstance(error, (RuntimeError, IndexError, TypeError, ValueError)) and not isinstance(error, EngineFault):
            reason = (str(error).splitlines() or ["no reason given"])[0][:300]
            # After a CUDA error nothing on that device works any more; on the CPU it is only this graph that failed.
            kind_found: FaultKind = "device" if "CUDA" in str(error) else "output"
            raise EngineFault(kind_found, f"PyTorch failed in {self._where}: {reason}") from error
