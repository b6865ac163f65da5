"""delen: multi-exit neural networks, served from one edge device to many tenants within their bounds.

Role: the SDK's names, each loaded when first used, so that `import delen` costs nothing and no engine is ever imported
by asking for a client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clients.async_client import AsyncClient
    from .clients.bounds import Bounds, Condition, ConditionSet
    from .clients.client import Client
    from .clients.conditions import load_conditions
    from .clients.errors import (
        BadFile,
        BadReply,
        BadRequest,
        BoundsInfeasible,
        Cancelled,
        DeadlineExceeded,
        DelenError,
        EngineFailed,
        Failed,
        NotReady,
        QueueFull,
        Refused,
        UnknownNetwork,
        Unreachable,
    )
    from .clients.pending import PendingResult
    from .clients.results import Result

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BadFile",
    "BadReply",
    "BadRequest",
    "Bounds",
    "BoundsInfeasible",
    "Cancelled",
    "Client",
    "Condition",
    "ConditionSet",
    "DeadlineExceeded",
    "DelenError",
    "EngineFailed",
    "Failed",
    "NotReady",
    "PendingResult",
    "QueueFull",
    "Refused",
    "Result",
    "UnknownNetwork",
    "Unreachable",
    "load_conditions",
]

_ROOMS = {
    "AsyncClient": "async_client",
    "Bounds": "bounds",
    "Condition": "bounds",
    "ConditionSet": "bounds",
    "Client": "client",
    "PendingResult": "pending",
    "load_conditions": "conditions",
    "Result": "results",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".clients.{_ROOMS.get(name, 'errors')}", __name__)
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
