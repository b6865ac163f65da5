"""What an engine must do to serve a network: the Runner protocol, and the faults it may raise.

Role: the one seam between the worker process and ONNX Runtime, PyTorch, TensorRT or a replayed profile. A runner loads
a bundle; what it returns runs one segment or one head on one batch at a time. Features stay on the device, in whatever
form the engine likes; only logits come back to the host. Which request goes how deep is the worker's business.

Every implementation passes `tests/test_runners.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .bundle import Bundle

Features = TypeVar("Features")
Logits = npt.NDArray[np.float32]
FaultKind = Literal["input", "memory", "output", "device", "unsupported"]


class EngineFault(Exception):
    """An engine could not do what it was asked.

    `kind` says whose fault it was and what helps: `input` (this batch only), `memory` (a smaller batch may do),
    `output` (NaN or misshapen: do not trust it), `device` (the process must end), `unsupported` (this bundle here).
    """

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Loaded(Protocol[Features]):
    """One network on one engine. Batches are along axis 0; batch sizes 1 to the `batch_max` it was loaded with."""

    def place(self, images: npt.NDArray[Any]) -> Features:
        """Bring one input batch, shape (batch, *input shape), to the device.

        The array must stay as it is until segment 0 has run on it: an engine on the host need not copy it.
        """
        ...

    def segment(self, index: int, features: Features) -> Features:
        """Run segment `index` on what segment `index - 1` gave; its argument stays valid."""
        ...

    def head(self, index: int, features: Features) -> Logits:
        """Run head `index`: logits on the host, shape (batch, classes). Waits for the device."""
        ...

    def take(self, features: Features, rows: Sequence[int]) -> Features:
        """Only these rows, in this order, as a batch of its own."""
        ...

    def join(self, parts: Sequence[Features]) -> Features:
        """Several batches at the same depth as one."""
        ...

    def finish(self) -> None:
        """Wait until the device has done all it was given."""
        ...


class Runner(Protocol):
    """An engine on a device. `versions`: what a profile must record to be comparable."""

    engine: str
    device: str
    precision: str
    threads: int
    versions: Mapping[str, str]

    def load(self, bundle: Bundle, batch_max: int) -> Loaded[Any]:
        """Prepare a network. Raises EngineFault `unsupported` or `memory`, with what to do about it."""
        ...
