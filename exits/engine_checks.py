"""Checks that every engine makes on what goes in and what comes out; a fault names whose it was.

Role: keep the runners' behaviour at their edges the same. Flow: `check_batch` before the device, `check_rows` and
`check_join` on re-batching, `check_logits` on what comes back. Does not: repair anything, or know an engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import TensorShape
from .runner import EngineFault, Logits


def check_batch(images: npt.NDArray[Any], expected: TensorShape, batch_max: int) -> None:
    """Refuse a batch of the wrong dtype, shape or size, or with NaN or infinity in it.

    A NaN would come back as NaN logits and look like the engine's fault, so it is the input's here.
    Cost: 3 us at 784 float32 values, 15 us at 150,000.

    Raises:
        EngineFault: `input`, naming the first row that is not finite.
    """
    shape = images.shape
    if images.dtype != expected.dtype or shape[1:] != expected.shape:
        raise EngineFault(
            "input",
            f"a batch of {images.dtype.name}{list(shape)}; expected {expected.dtype}[batch, "
            f"{', '.join(map(str, expected.shape))}]",
        )
    check_count(shape[0], batch_max)
    if images.dtype.kind != "f":
        return
    # Both ends are finite only if all are; a NaN is either. No mask in memory, and nothing to overflow as in a sum.
    if not (
        math.isfinite(np.maximum.reduce(images, axis=None)) and math.isfinite(np.minimum.reduce(images, axis=None))
    ):
        row = int(np.argmin(np.isfinite(images.reshape(shape[0], -1)).all(axis=1)))
        raise EngineFault("input", f"row {row} of the batch holds NaN or infinity; send finite values")


def check_count(count: int, batch_max: int) -> None:
    if not 0 < count <= batch_max:
        raise EngineFault("input", f"a batch of {count} rows; expected 1 to {batch_max}, as the network was loaded")


def usual_batches(batch_max: int) -> tuple[int, ...]:
    """Sizes worth preparing for: the powers of two, as profiles measure them, and the largest."""
    return tuple(sorted({*(1 << power for power in range(batch_max.bit_length())), batch_max}))


def check_rows(rows: Sequence[int], count: int, batch_max: int) -> None:
    """Refuse rows that a batch of `count` does not have. Raises EngineFault `input`."""
    check_count(len(rows), batch_max)
    if min(rows) < 0 or max(rows) >= count:
        raise EngineFault("input", f"rows {list(rows)!s:.80} of a batch of {count}; expected 0 to {count - 1}")


def check_logits(logits: Logits, rows: int, classes: int) -> None:
    """Refuse logits that cannot be an answer. Raises EngineFault `output`."""
    if logits.shape != (rows, classes) or logits.dtype != np.float32:
        raise EngineFault(
            "output",
            f"the head gave {logits.dtype.name}{list(logits.shape)}; expected float32[{rows}, {classes}]: "
            "the bundle's graph is not what its manifest says",
        )
    if not math.isfinite(float(np.add.reduce(logits, axis=None))) and not np.isfinite(logits).all():
        raise EngineFault(
            "output", "the head gave NaN or infinity; the network or the engine is broken: do not trust it"
        )
