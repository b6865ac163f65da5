"""TensorRT's calls over ONNX Runtime and the fake driver's memory: the runner half without a GPU.

An engine is the ONNX file with its optimisation profiles. A run is put into the stream as a host function, which is
what a kernel is to the runner: it happens when the stream gets there, is recorded while a graph is, and reads and
writes the addresses that were set when it was asked for. What TensorRT forbids is noted in `Rules.broken`.

`make("8.6")` and `make("10.3")` differ as those versions do. Does not: check names (`test_tensorrt_names.py` does).
"""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from delen.tests.fake_cuda import FakeCuda

WORK_BYTES = 4096
_HOST = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Rules:
    """What was done that TensorRT's documentation forbids, and what was built; `fail`: what is to fail next."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.built: list[dict[str, Any]] = []
        self.fail: set[str] = set()


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class _Config:
    def __init__(self) -> None:
        self.profiles: list[dict[str, Any]] = []
        self.flags: set[str] = {"TF32"}
        self.previews: set[str] = set()
        self.progress_monitor: Any = None

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        assert pool == "WORKSPACE"
        assert size > 0

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_preview_feature(self, feature: str, on: bool) -> None:
        assert on
        self.previews.add(feature)

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.profiles.append(profile.shapes)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self.shapes[name] = [list(smallest), list(best), list(largest)]


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = b""


class _Parser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[str | UnicodeDecodeError] = []

    def parse(self, model: bytes) -> bool:
        import onnxruntime

        try:
            _session(model)
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
            self._errors.append(str(error))
        except UnicodeDecodeError as error:
            self._errors.append(error)
        self._network.model = model
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: _told(self._errors[index]))


def _told(error: str | UnicodeDecodeError) -> str:
    """As the real one's binding: what is no UTF-8 becomes no string."""
    if isinstance(error, UnicodeDecodeError):
        raise error
    return error


class _Builder:
    def __init__(self, trt: Any, logger: ILogger) -> None:
        self._trt = trt
        self._logger = logger

    def create_network(self, flags: int) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        rules: Rules = self._trt.rules
        if "build" in rules.fail:
            self._logger.log(ILogger.ERROR, "[autotuner] Could not find any implementation for node Conv_0")
            return None
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Timing", "Building", 9)
            for step in range(2):
                monitor.step_complete("Timing", step)
                monitor.step_complete("Building", step)
            monitor.phase_finish("Building")
        rules.built.append({"network": network.flags, "flags": config.flags, "previews": config.previews})
        return json.dumps(config.profiles).encode() + b"\0" + network.model


class _Engine:
    def __init__(self, trt: Any, plan: bytes) -> None:
        said, _, model = plan.partition(b"\0")
        self.trt = trt
        self.profiles = json.loads(said)
        self.session = _session(model)
        self.types = {port.name: port.type for port in (*self.session.get_inputs(), *self.session.get_outputs())}
        setattr(self, "device_memory_size" if trt.old else "device_memory_size_v2", WORK_BYTES)

    def get_tensor_dtype(self, name: str) -> str:
        return {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}[self.types[name]]

    def create_execution_context_without_device_memory(self) -> _Context | None:
        assert self.trt.old, "TensorRT 11 has no such call"
        return _Context(self)

    def create_execution_context(self, strategy: str) -> _Context | None:
        assert strategy == "USER_MANAGED"
        return None if "context" in self.trt.rules.fail else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._rules: Rules = engine.trt.rules
        self._profile: int | None = None
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._calls: list[Any] = []
        self._recorded = False
        self.device_memory = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._profile = index
        self._change()
        return index < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        smallest, _, largest = self._engine.profiles[self._profile][name]
        self._shape = shape
        self._change()
        return all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % 256:
            self._rules.broken.append(f"{name} at {address:#x}, no multiple of 256")
        self._addresses[name] = address
        self._change()
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = np.zeros(self._shape, self._engine.get_tensor_dtype("input"))
        return self._engine.session.run([name], {"input": zeros})[0].shape  # type: ignore[no-any-return]

    def execute_async_v3(self, stream: int) -> bool:
        if "run" in self._rules.fail or not self.device_memory:
            self._engine.trt.logger.log(ILogger.ERROR, "IExecutionContext::enqueueV3: Error Code 1: Cask")
            return False
        addresses, shape, work = dict(self._addresses), self._shape, self.device_memory

        def happen(_: Any) -> None:
            taken = _at(addresses["input"], shape, self._engine.get_tensor_dtype("input"))
            (given,) = self._engine.session.run(["output"], {"input": taken})
            ctypes.memset(work, 0xAA, WORK_BYTES)
            ctypes.memmove(addresses["output"], np.ascontiguousarray(given).ctypes.data, given.nbytes)

        call = _HOST(happen)
        library = self._engine.trt.cuda.library
        self._recorded |= bool(library.fake_capturing())
        # Whoever launches a graph later still needs it.
        self._calls.append(call)
        launch = library.cuLaunchHostFunc
        return not launch(ctypes.c_void_p(stream), call, None)

    def _change(self) -> None:
        if self._recorded:
            self._rules.broken.append("a context was set anew after a graph had been recorded with it")


class _Runtime:
    def __init__(self, trt: Any, logger: ILogger) -> None:
        self._trt = trt
        trt.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        if "deserialise" in self._trt.rules.fail or b"\0" not in plan:
            self._trt.logger.log(ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization")
            return None
        return _Engine(self._trt, plan)


class IProgressMonitor:
    """TensorRT's own does nothing either."""


def make(version: str, cuda: FakeCuda) -> Any:
    """A module that looks like this version of TensorRT; `.rules` is the fake's own."""
    trt = SimpleNamespace(__version__=version, rules=Rules(), cuda=cuda, ILogger=ILogger, logger=None)
    trt.old = version.startswith("8.")
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
    trt.nptype = lambda name: np.dtype(name).type
    trt.Builder = lambda logger: _Builder(trt, logger)
    trt.OnnxParser = _Parser
    trt.Runtime = lambda logger: _Runtime(trt, logger)
    if trt.old:
        trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
        trt.BuilderFlag = SimpleNamespace(TF32="TF32", FP16="FP16", INT8="INT8")
        trt.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="PROFILE_SHARING_0806")
    else:
        trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        trt.BuilderFlag = SimpleNamespace(TF32="TF32")
        trt.PreviewFeature = SimpleNamespace()
        trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
        trt.IProgressMonitor = IProgressMonitor
    return trt


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def _at(address: int, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).copy()
    return raw.view(dtype).reshape(shape)
