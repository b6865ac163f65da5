"""Networks: build, attach, train, calibrate, export, load, and run segments on an engine.

`from delen.exits import attach` makes an ordinary PyTorch model multi-exit; PyTorch is imported only then.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when ONNX Runtime's library is loaded, so it must be set before: without it, importing ONNX Runtime alone leaves
# an id of the machine and a database of events in the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from .attaching import AttachError, attach, cut_points, propose
    from .multi_exit import MultiExit

__all__ = ["AttachError", "MultiExit", "attach", "cut_points", "propose"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'multi_exit' if name == 'MultiExit' else 'attaching'}"), name)
