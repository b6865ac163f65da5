"""TensorRT's runner on a board that is not there: the fake driver below it, the fake TensorRT beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from delen.exits.engine_cache import EngineCache
from delen.exits.runner import Runner
from delen.exits.tensorrt_runner import TensorRTRunner
from delen.tests import fake_tensorrt
from delen.tests.fake_cuda import FakeCuda, fake_cuda

# No directory of anybody's: nothing is kept.
NO_CACHE = Path("/dev/null/nowhere")


class Board(NamedTuple):
    """The fakes, and a way to make runners on them."""

    cuda: FakeCuda
    trt: Any
    runner: Callable[..., TensorRTRunner]


def fake_board(version: str = "10.3", cache: EngineCache | None = None) -> Board:
    """A board with this version of TensorRT; skips the test where the fakes cannot be."""
    cuda = fake_cuda()
    trt = fake_tensorrt.make(version, cuda)
    kept = EngineCache(NO_CACHE, 0) if cache is None else cache

    def runner(**said: Any) -> TensorRTRunner:
        return TensorRTRunner(cache=kept, trt=trt, **said)

    return Board(cuda, trt, runner)


def fake_tensorrt_runner(version: str) -> Runner:
    return fake_board(version).runner()
