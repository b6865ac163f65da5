"""Make the runner that the configuration names. The only place in this room that knows engines by name.

Role: called in the worker process only; the front never imports an engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..exits.bundle import Bundle
from ..exits.runner import EngineFault, Runner
from ..profiles.schema import read_profile

# What to do where an engine cannot be imported. JetPack's TensorRT is no wheel, and no wheel of TensorRT fits a Jetson.
_FIX = {
    "tensorrt": "on a Jetson it is JetPack's, for the system's Python: sudo apt-get install python3-libnvinfer, and an "
    "environment made with --system-site-packages; elsewhere: pip install 'delen[tensorrt]'. delen doctor says more",
}


def make_runner(engine: str, device: str, threads: int, tell: Callable[[str], None] = lambda said: None) -> Runner:
    """The engine, ready to load bundles.

    Args:
        tell: hears what is being built, where an engine builds before it runs.
    Raises:
        EngineFault: `unsupported` where it is not installed, `device` where what it runs on is not there.
    """
    try:
        if engine == "onnx":
            from ..exits.onnx_runner import OnnxRunner

            if device not in ("auto", "cpu"):
                takes = "expected auto or cpu; for the GPU take engine torch or tensorrt"
                raise EngineFault("device", f"no device {device!r:.80} for ONNX Runtime; {takes}")
            return OnnxRunner(threads=threads)
        if engine == "torch":
            from ..exits.torch_runner import TorchRunner

            return TorchRunner(device=device, threads=threads)
        if engine == "tensorrt":
            from ..exits.tensorrt_runner import TensorRTRunner

            return TensorRTRunner(device=device, threads=threads, tell=tell)
    except ImportError as error:
        fix = _FIX.get(engine, f"install it with: pip install 'delen[{engine}]'")
        raise EngineFault("unsupported", f"engine {engine!r} needs {error.name}; {fix}") from error
    raise EngineFault("unsupported", f"no engine {engine!r}; known: onnx, torch, tensorrt, replay")


def preload(engine: str) -> None:
    """Load what this engine takes long to load, and touch nothing. Whatever is missing, `make_runner` says."""
    with contextlib.suppress(ImportError):
        if engine == "onnx":
            from ..exits import onnx_runner  # noqa: F401
        elif engine == "torch":
            from ..exits import torch_runner  # noqa: F401


def make_replay(profile: Path, bundle: Bundle, sleep: Callable[[float], None]) -> Runner:
    """A runner that spends this profile's times and answers from the bundle's calibration."""
    from ..profiles.replay_runner import ReplayRunner

    return ReplayRunner(read_profile(profile), spend=True, calibration=bundle.calibration(), sleep=sleep)
