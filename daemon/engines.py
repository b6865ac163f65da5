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


def make_runner(engine: str, device: str, threads: int) -> Runner:
    """ONNX Runtime or PyTorch, ready to load bundles. Raises EngineFault `unsupported` where it is not installed."""
    try:
        if engine == "onnx":
            from ..exits.onnx_runner import OnnxRunner

            return OnnxRunner(threads=threads)
        if engine == "torch":
            from ..exits.torch_runner import TorchRunner

            return TorchRunner(device=device, threads=threads)
    except ImportError as error:
        raise EngineFault(
            "unsupported", f"engine {engine!r} needs {error.name}; install it with: pip install 'delen[{engine}]'"
        ) from error
    raise EngineFault("unsupported", f"no engine {engine!r}; known: onnx, torch, replay")


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
