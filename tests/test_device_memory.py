"""Device memory: blocks come back, nothing leaks whatever fails, and work is waited for before its buffers change."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from delen.exits.device_memory import ALIGNMENT, Gpu, Staging, open_gpu, size_class
from delen.exits.runner import EngineFault
from delen.tests.fake_cuda import FakeCuda, fake_cuda

CALLS = (
    *("cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate"),
    *("cuMemAlloc_v2", "cuMemHostAlloc", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemcpyDtoHAsync_v2"),
    *("cuStreamSynchronize", "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"),
    *("cuGraphLaunch", "cuMemFree_v2", "cuMemFreeHost"),
)


@pytest.fixture
def cuda() -> FakeCuda:
    return fake_cuda()


@pytest.fixture
def gpu(cuda: FakeCuda) -> Gpu:
    return open_gpu(0)


def test_a_gpu_says_what_engines_are_built_for(gpu: Gpu) -> None:
    assert (gpu.calls.sm, gpu.calls.name, gpu.calls.driver_version) == (87, "Fake Orin", 12060)
    assert gpu.calls.library.startswith("cuda-bindings ")


def test_a_number_that_no_gpu_has_is_named(cuda: FakeCuda) -> None:
    with pytest.raises(EngineFault, match="no GPU 1: CUDA sees 1") as caught:
        open_gpu(1)
    assert caught.value.kind == "device"
    cuda.devices(0)
    with pytest.raises(EngineFault, match="no usable GPU"):
        open_gpu(0)


@pytest.mark.slow
def test_without_a_driver_the_fault_says_so_and_nothing_crashes() -> None:
    fake_cuda()
    code = (
        "from delen.exits.device_memory import open_gpu\n"
        "from delen.exits.runner import EngineFault\n"
        "try:\n    open_gpu(0)\nexcept EngineFault as fault:\n    print(fault.kind, fault)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("device no CUDA driver here")


def test_a_block_that_nobody_holds_is_lent_again(gpu: Gpu, cuda: FakeCuda) -> None:
    first = gpu.block(5000)
    address = first.address
    other = gpu.block(5000)
    assert other.address != address
    del first
    assert gpu.block(4900).address == address
    assert cuda.held().blocks == 2


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1025, 4097, 1_000_000, 2**30 - 1])
def test_blocks_are_large_enough_and_waste_little(size: int) -> None:
    rounded = size_class(size)
    assert rounded >= max(size, ALIGNMENT)
    assert rounded % ALIGNMENT == 0
    assert rounded <= max(1.25 * size, size + ALIGNMENT)


def test_what_lies_idle_is_given_back_before_memory_is_called_short(gpu: Gpu, cuda: FakeCuda) -> None:
    idle = [gpu.block(10_000), gpu.block(300_000)]
    del idle
    cuda.fail("cuMemAlloc_v2", code=2)
    held = gpu.block(20_000)
    assert cuda.held().blocks == 1
    assert gpu.held_bytes == held.size
    cuda.fail("cuMemAlloc_v2", code=2)
    with pytest.raises(EngineFault, match="load fewer networks") as caught:
        gpu.block(40_000)
    assert caught.value.kind == "memory"


def test_a_buffer_still_on_its_way_is_not_written_over(gpu: Gpu, cuda: FakeCuda) -> None:
    staging = Staging(gpu, 4096, 4096)
    batches = [np.full((2, 8), number, np.float32) for number in (1, 2, 3)]
    sent = [staging.send(batch) for batch in batches]
    assert cuda.waiting() == 1, "only what the next one had to wait for was waited for"
    for block, batch in zip(sent, batches, strict=True):
        np.testing.assert_array_equal(staging.fetch(block, (2, 8)), batch)


def test_scattered_input_of_any_type_arrives_in_order(gpu: Gpu) -> None:
    staging = Staging(gpu, 4096, 4096)
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4).swapaxes(1, 2)
    np.testing.assert_array_equal(staging.fetch(staging.send(images), (2, 4, 3)), images)


def test_a_recorded_copy_is_done_anew_at_every_launch(gpu: Gpu) -> None:
    staging = Staging(gpu, 64, 64)
    source, target = staging.send(np.arange(4, dtype=np.float32)), gpu.block(16)

    def steps() -> bool:
        gpu.copy_within(target.address, source.address, 16)
        return True

    graph = gpu.record(steps)
    again = staging.send(np.arange(4, 8, dtype=np.float32))
    gpu.copy_within(source.address, again.address, 16)
    gpu.calls.launch(graph)
    np.testing.assert_array_equal(staging.fetch(target, (4,)), [4, 5, 6, 7])
    gpu.calls.forget(graph)


def test_what_waits_while_it_is_recorded_is_no_graph_and_harms_nothing(gpu: Gpu, cuda: FakeCuda) -> None:
    def steps() -> bool:
        with pytest.raises(EngineFault):
            gpu.synchronize()
        return False

    assert gpu.record(steps) is None
    assert gpu.record(lambda: False) is None
    gpu.synchronize()
    assert cuda.held().graphs == 0


def test_a_recording_that_breaks_off_leaves_nothing_behind(gpu: Gpu, cuda: FakeCuda) -> None:
    def steps() -> bool:
        raise EngineFault("output", "no such shape")

    with pytest.raises(EngineFault, match="no such shape"):
        gpu.record(steps)
    assert cuda.held().graphs == 0
    gpu.synchronize()


def test_an_error_that_sticks_is_the_devices(gpu: Gpu, cuda: FakeCuda) -> None:
    cuda.fail("cuStreamSynchronize", code=719)
    for _ in range(2):
        with pytest.raises(EngineFault, match="not usable from this process") as caught:
            gpu.synchronize()
        assert caught.value.kind == "device"


@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_is_a_fault_and_what_was_lent_comes_back(call: str, cuda: FakeCuda) -> None:
    for after in range(8):
        cuda.reset()
        cuda.fail(call, after=after, code=2)
        kind = _a_life()
        if kind is None:
            assert cuda.held()[:5] == (0, 0, 0, 0, 0)
            assert after, "it was called, and failed"
            return
        assert kind in ("memory", "device")
    raise AssertionError(f"{call} is called more often than this test thinks")


def _a_life() -> str | None:
    """Open, send, record, launch, fetch, close; the kind of fault that came between."""
    try:
        _live()
    except EngineFault as fault:
        return fault.kind
    return None


def _live() -> None:
    gpu = open_gpu(0)
    staging = Staging(gpu, 64, 64)
    block, other = staging.send(np.arange(4, dtype=np.float32)), gpu.block(16)
    to, source = other.address, block.address
    graph = gpu.record(lambda: gpu.copy_within(to, source, 16) is None)
    assert graph is not None
    gpu.calls.launch(graph)
    np.testing.assert_array_equal(staging.fetch(other, (4,)), [0, 1, 2, 3])
    gpu.calls.forget(graph)
    del block, other
    staging.close()
    gpu.close()
