"""One ONNX graph of a bundle -> one TensorRT engine, as bytes. Minutes on a small board, so the result is kept.

Role: the builder half of `tensorrt_runner.py`, for TensorRT 8.6 to 11. Flow: parse -> a profile per range of batch
sizes -> `build_engine` -> bytes for `engine_cache.py`. What an engine computes in is what the bundle's graphs say: they
are what was calibrated. Where TensorRT knows strongly typed networks (10, and nothing else from 11 on) that is all;
before, the flags fp16 and int8 allow what the graph asks for.

`trt` is the module itself, passed in: `tensorrt` on a board, `tensorrt_rtx` where there is no GPU to build for.
Does not: need a GPU of its own accord (TensorRT does), run engines, or touch files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .bundle import INPUT
from .manifest import Precision, TensorShape
from .runner import EngineFault

# Raised whenever the same graph is to give another engine than before: cached ones are then built anew.
REVISION = 1
# What trying out kernels may take at most; the boards share their memory with everything else.
WORKSPACE_BYTES_MAX = 512 * 1024**2
MESSAGES_MAX = 20
Tell = Callable[[str], None]
Configure = Callable[[Any], None]


class Build(NamedTuple):
    """What an engine is built from. `ranges`: smallest, best and largest batch of each optimisation profile."""

    file: str
    model: bytes
    taken: TensorShape
    precision: Precision
    ranges: tuple[tuple[int, int, int], ...]


class Messages:
    """What TensorRT said last, for the text of a fault: its calls only return None or False."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def add(self, message: str) -> None:
        self._said = [*self._said[1 - MESSAGES_MAX :], message.splitlines()[0][:300] if message else ""]

    def take(self) -> list[str]:
        """All since the last time, oldest first."""
        said, self._said = self._said, []
        return said


def ranges_for(batch_max: int) -> tuple[tuple[int, int, int], ...]:
    """Optimisation profiles that cover 1 to `batch_max`: alone, a few, many. Each is tuned for its largest batch."""
    ends = [end for end in (1, 8) if end < batch_max] + [batch_max]
    starts = [1, *(end + 1 for end in ends[:-1])]
    return tuple((start, end, end) for start, end in zip(starts, ends, strict=True))


class Kit(NamedTuple):
    """TensorRT and the logger that it talks to, for as long as the process lives."""

    trt: Any
    logger: Any
    messages: Messages


def make_kit(trt: Any) -> Kit:
    """The module with a logger that keeps errors."""
    messages = Messages()

    class Logger(trt.ILogger):  # type: ignore[misc]  # the module is passed in
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                messages.add(message)

    return Kit(trt, Logger(), messages)


def build_engine(kit: Kit, build: Build, tell: Tell, *, configure: Configure = lambda config: None) -> bytes:
    """The engine for one graph, for the GPU that TensorRT sees.

    Args:
        tell: called with a line of text now and then while it builds.
        configure: has the last word on the builder's configuration.
    Raises:
        EngineFault: `unsupported` names the operator or what TensorRT said; `memory` where it was short.
    """
    trt, logger, messages = kit
    messages.take()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(build.model):
        fix = "export it " + ("again with --precision int8 --symmetric" if build.precision == "int8" else "differently")
        raise EngineFault(
            "unsupported",
            f"TensorRT {trt.__version__} cannot read {build.file}: {_reasons(parser)}; use the engine onnx, or {fix}",
        )
    config = _config(trt, builder, build)
    for smallest, best, largest in build.ranges:
        profile = builder.create_optimization_profile()
        shape = build.taken.shape
        profile.set_shape(INPUT, (smallest, *shape), (best, *shape), (largest, *shape))
        config.add_optimization_profile(profile)
    monitor = _monitor(trt, build.file, tell)
    if monitor is not None:
        config.progress_monitor = monitor
    configure(config)
    tell(f"building an engine for {build.file}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(trt, build.file, messages.take())
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    """Strongly typed where that is known, else explicit batch, which was a choice until TensorRT 10."""
    flags = trt.NetworkDefinitionCreationFlag
    typed = getattr(flags, "STRONGLY_TYPED", None)
    chosen = getattr(flags, "EXPLICIT_BATCH", None) if typed is None else typed
    return 0 if chosen is None else 1 << int(chosen)


def _config(trt: Any, builder: Any, build: Build) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES_MAX)
    # TF32 has ten bits for what was calibrated with 23; whoever wants speed for bits exports in fp16.
    config.clear_flag(trt.BuilderFlag.TF32)
    if getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None) is None:
        allowed = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[build.precision]
        for name in allowed:
            config.set_flag(getattr(trt.BuilderFlag, name))
    # Several contexts of one profile: a preview in 8.6, the rule since.
    shared = getattr(trt.PreviewFeature, "PROFILE_SHARING_0806", None)
    if shared is not None:
        config.set_preview_feature(shared, True)
    return config


def _monitor(trt: Any, file: str, tell: Tell) -> Any:
    """Tells how far the outermost phase is; None before TensorRT 10, which has none."""
    if getattr(trt, "IProgressMonitor", None) is None:
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is passed in
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                tell(f"building an engine for {file}: step {step + 1} of {self._steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _reasons(parser: Any) -> str:
    reasons = [_reason(parser.get_error(index)) for index in range(min(parser.num_errors, 3))]
    return "; ".join(reasons) or "it gives no reason"


def _reason(error: Any) -> str:
    """One error, and the operator that it is about where this version says so and its text does not."""
    try:
        said = (error.desc().splitlines() or ["no reason given"])[0][:200]
    except UnicodeDecodeError:
        # It may quote names out of the graph that are no UTF-8, and then it cannot even say that.
        said = "the reason names something that is no text"
    operator = getattr(error, "node_operator", None)
    name = "" if operator is None else operator()
    return said if not name or name in said else f"operator {name}: {said}"


def _refused(trt: Any, file: str, said: list[str]) -> EngineFault:
    reason = "; ".join(said[-3:]) or "it gives no reason"
    if any("memory" in line.lower() and ("out of" in line.lower() or "insufficient" in line.lower()) for line in said):
        return EngineFault("memory", f"no memory to build an engine for {file}: {reason}; stop what else runs")
    return EngineFault(
        "unsupported",
        f"TensorRT {trt.__version__} cannot build {file}: {reason}; use the engine onnx, or export it differently",
    )
