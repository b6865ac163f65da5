"""What a bundle's graphs themselves give for a data set: the figures that certificates and reports are made of.

Flow: raw values -> the bundle's own preprocessing, some at a time -> an engine -> logits of every exit.
Does not: use PyTorch, or judge.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..clients.wire import Array
from .bundle import Bundle
from .calibrations import measure_logits
from .datasets import as_inputs
from .runner import Logits, Runner

BATCH = 32
# Raw bytes become four times as many: only so many samples are prepared at a time.
PREPARED = 32 * BATCH


def bundle_logits(
    bundle: Bundle, values: Array, runner: Runner, on_progress: Callable[[int], None] = lambda done: None
) -> Logits:
    """Logits of every exit, shape (exits, n, classes), float32.

    Args:
        values: raw, shape (n, *input shape), n >= 1; bytes are preprocessed as the manifest says.
        on_progress: told how many are done.
    Raises:
        EngineFault: the engine cannot run these graphs, or an exit gave NaN or a wrong shape.
    """
    manifest = bundle.manifest
    loaded = runner.load(bundle, BATCH)
    found = []
    for start in range(0, len(values), PREPARED):
        inputs = as_inputs(values[start : start + PREPARED], manifest.preprocessing, manifest.input.dtype)
        found.append(measure_logits(loaded, len(manifest.exits), inputs, BATCH, lambda done: None))
        on_progress(start + len(inputs))
    return np.concatenate(found, axis=1)
