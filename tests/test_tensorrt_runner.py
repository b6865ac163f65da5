"""TensorRT's runner over stand-ins: what it builds, keeps, records and gives back, and what it does when things fail.

What any engine must do is in `test_runners.py`, which runs this one too.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxruntime", reason="the stand-in runs graphs with it: pip install 'delen[onnx]'")

from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.engine_cache import EngineCache
from delen.exits.runner import EngineFault
from delen.exits.samples import load_samples, prepare
from delen.exits.tensorrt_build import ranges_for
from delen.tests.fake_board import Board, fake_board
from delen.tests.test_runners import all_logits, onnx_engine

BATCH_MAX = 6


@pytest.fixture
def digits() -> Bundle:
    return load_bundle(shipped_directory() / "digits")


@pytest.fixture
def images(digits: Bundle) -> npt.NDArray[np.float32]:
    return prepare(load_samples("digits").images[:BATCH_MAX], digits.manifest.preprocessing)


@pytest.fixture
def board() -> Board:
    return fake_board()


@pytest.mark.parametrize("version", ["8.6", "10.3"])
def test_every_batch_size_gives_what_onnx_runtime_gives(
    version: str, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    board = fake_board(version)
    loaded, reference = board.runner().load(digits, BATCH_MAX), onnx_engine(digits).load(digits, BATCH_MAX)
    for rows in range(1, BATCH_MAX + 1):
        np.testing.assert_allclose(
            all_logits(loaded, images[:rows], 3), all_logits(reference, images[:rows], 3), atol=1e-5
        )
    assert board.trt.rules.broken == []


@pytest.mark.parametrize("batch_max", [1, 2, 8, 9, 32])
def test_profiles_cover_every_batch_size_once(batch_max: int) -> None:
    ranges = ranges_for(batch_max)
    covered = [size for smallest, _, largest in ranges for size in range(smallest, largest + 1)]
    assert covered == list(range(1, batch_max + 1))
    assert all(smallest <= best <= largest for smallest, best, largest in ranges)


def test_usual_sizes_are_recorded_at_load_and_others_run_without(board: Board, digits: Bundle) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)
    # Three segments and three heads, at 1, 2, 4 and 6 rows.
    assert board.cuda.held().graphs == 6 * 4
    loaded.close()
    assert board.cuda.held().graphs == 0


@pytest.mark.parametrize(("call", "after"), [("cuGraphInstantiateWithFlags", 0), ("cuStreamEndCapture", 7)])
def test_without_memory_for_a_graph_batches_run_without_one(
    call: str, after: int, board: Board, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    board.cuda.fail(call, after=after, code=2)
    loaded, reference = board.runner().load(digits, BATCH_MAX), onnx_engine(digits).load(digits, BATCH_MAX)
    assert board.cuda.held().graphs < 6 * 4
    np.testing.assert_allclose(all_logits(loaded, images, 3), all_logits(reference, images, 3), atol=1e-5)
    loaded.close()
    assert board.cuda.held().graphs == 0


def test_a_large_batch_is_not_copied_for_the_sake_of_a_graph(
    board: Board, digits: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delen.exits.tensorrt_engine.GRAPH_BYTES_MAX", 1)
    board.runner().load(digits, BATCH_MAX)
    assert board.cuda.held().graphs == 0


def test_a_strongly_typed_network_where_there_is_one_else_flags_for_what_the_bundle_says(digits: Bundle) -> None:
    new, old = fake_board("11.4"), fake_board("8.6")
    new.runner().load(digits, 2)
    old.runner().load(digits, 2)
    assert {(build["network"], *build["flags"]) for build in new.trt.rules.built} == {(2,)}
    assert {(build["network"], *build["flags"]) for build in old.trt.rules.built} == {(1,)}
    assert all(build["previews"] == {"PROFILE_SHARING_0806"} for build in old.trt.rules.built)


def test_segments_are_put_in_the_stream_and_only_a_head_waits(
    board: Board, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)
    loaded.finish()
    features = loaded.place(images)
    waiting = [board.cuda.waiting()]
    for index in range(3):
        features = loaded.segment(index, features)
        waiting.append(board.cuda.waiting())
    assert waiting == sorted(set(waiting))
    assert waiting[0] == 1
    loaded.head(2, features)
    assert board.cuda.waiting() == 0


def test_serving_for_long_takes_no_more_memory_than_serving_shortly(
    board: Board, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)

    def serve() -> None:
        features = loaded.segment(0, loaded.place(images))
        kept = loaded.take(features, [4, 1])
        features = loaded.segment(1, loaded.join([loaded.take(features, [0, 2, 3]), kept]))
        loaded.head(1, features)

    serve()
    after_one = board.cuda.held()
    for _ in range(20):
        serve()
    assert board.cuda.held() == after_one


def test_what_was_loaded_is_given_back_when_it_is_dropped(board: Board, digits: Bundle) -> None:
    runner = board.runner()
    runner.load(digits, BATCH_MAX)
    gc.collect()
    runner.close()
    assert board.cuda.held()[:5] == (0, 0, 0, 0, 0)


def test_engines_are_built_once_and_told_of(digits: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    board = fake_board(cache=EngineCache(tmp_path / "kept", os.getuid()))
    board.runner(tell=said.append).load(digits, BATCH_MAX)
    assert len(board.trt.rules.built) == 6
    assert "building an engine for segment0.onnx: step 2 of 2" in said
    board.runner(tell=said.clear).load(digits, BATCH_MAX)
    assert len(board.trt.rules.built) == 6
    board.runner().load(digits, BATCH_MAX + 1)
    assert len(board.trt.rules.built) == 12, "other batch sizes are other engines"


def test_a_kept_engine_that_is_not_taken_is_built_anew(
    digits: Bundle, images: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    cache = EngineCache(tmp_path / "kept", os.getuid())
    board = fake_board(cache=cache)
    board.runner().load(digits, BATCH_MAX)
    for path in (tmp_path / "kept").iterdir():
        cache.write(path.stem, b"of another TensorRT")
    loaded = board.runner().load(digits, BATCH_MAX)
    assert len(board.trt.rules.built) == 12
    assert all_logits(loaded, images, 3).shape == (3, BATCH_MAX, 10)


@pytest.mark.parametrize(
    ("fails", "kind", "words"),
    [
        ("deserialise", "unsupported", "does not load the engine it built for segment0.onnx"),
        ("build", "unsupported", "Could not find any implementation for node Conv_0"),
        ("context", "memory", "no memory to run segment0.onnx"),
    ],
)
def test_what_fails_at_load_is_said_in_tensorrts_words(
    fails: str, kind: str, words: str, board: Board, digits: Bundle
) -> None:
    runner = board.runner()
    board.trt.rules.fail.add(fails)
    with pytest.raises(EngineFault, match=words) as caught:
        runner.load(digits, BATCH_MAX)
    assert caught.value.kind == kind


def test_a_run_that_tensorrt_refuses_harms_only_itself(
    board: Board, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)
    placed = loaded.place(images[:5])
    board.trt.rules.fail.add("run")
    with pytest.raises(EngineFault, match=r"would not run in segment0.onnx: .*enqueueV3") as caught:
        loaded.segment(0, placed)
    assert caught.value.kind == "output"
    board.trt.rules.fail.clear()
    assert loaded.head(0, loaded.segment(0, placed)).shape == (5, 10)


@pytest.mark.parametrize("call", ["cuLaunchHostFunc", "cuStreamSynchronize", "cuMemcpyDtoHAsync_v2", "cuGraphLaunch"])
def test_after_an_error_that_sticks_the_worker_must_end(
    call: str, board: Board, digits: Bundle, images: npt.NDArray[np.float32]
) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)
    rows = 4 if call == "cuGraphLaunch" else 5
    board.cuda.fail(call, code=700)
    with pytest.raises(EngineFault) as caught:
        loaded.head(0, loaded.segment(0, loaded.place(images[:rows])))
    assert caught.value.kind == "device"


def test_no_memory_for_a_batch_is_said_and_the_next_one_runs(
    board: Board, digits: Bundle, images: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = board.runner().load(digits, BATCH_MAX)
    monkeypatch.setattr("delen.exits.device_memory.Gpu.trim", lambda gpu: 0)
    board.cuda.fail("cuMemAlloc_v2", code=2)
    with pytest.raises(EngineFault) as caught:
        # All of them are held, so that idle blocks run out and the driver is asked.
        [loaded.place(images) for _ in range(10)]
    assert caught.value.kind == "memory"
    assert all_logits(loaded, images, 3).shape == (3, BATCH_MAX, 10)


def test_without_a_gpu_nothing_of_tensorrt_is_touched(board: Board) -> None:
    board.cuda.devices(0)
    del board.trt.Runtime, board.trt.ILogger
    with pytest.raises(EngineFault, match="no usable GPU") as caught:
        board.runner()
    assert caught.value.kind == "device"


def test_a_device_that_is_none_of_tensorrts_is_named(board: Board) -> None:
    with pytest.raises(EngineFault, match="no device 'cpu' for TensorRT"):
        board.runner(device="cpu")
