"""The asyncio client over a real socket, against the fake daemon in a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.clients.async_client import AsyncClient
from delen.clients.bounds import Bounds
from delen.clients.errors import BoundsInfeasible, Cancelled, DelenError, UnknownNetwork, Unreachable
from delen.clients.wire import VERSION, Cancel, Infer, Offer, Refusal
from delen.tests.fake_daemon import FakeDaemon, serving

pytestmark = pytest.mark.e2e

X = np.array([[[0, 3], [1, 0]]], np.float32)
PATIENCE_S = 20.0


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def endpoint(daemon: FakeDaemon, tmp_path: Path) -> Iterator[str]:
    with serving(daemon, tmp_path) as endpoint:
        yield endpoint


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def test_the_verbs_are_those_of_the_blocking_client(endpoint: str) -> None:
    async def work() -> None:
        async with AsyncClient(endpoint=endpoint, latency_ms=60_000) as client:
            result = await client.infer("toy", X, accuracy=0.8)
            assert (result.label, result.label_name, result.met) == (1, "dog", True)
            assert [info.name for info in await client.networks()] == ["toy", "photo"]
            assert await client.bounds(energy_mj=3) == Bounds(energy_mj=3.0)
            await client.conditions("toy", None)
            assert (await client.stats()).worker == "running"
            assert (await client.traces("t", 5)).next == 5
            assert (await client.session()).bounds == Bounds(latency_ms=60_000.0)
            assert await client.ping() > 0
            with pytest.raises(UnknownNetwork):
                await client.infer("tyo", X)

    run(work())


def test_many_requests_are_out_at_once_and_each_gets_its_own_answer(endpoint: str) -> None:
    async def work() -> None:
        async with AsyncClient(endpoint=endpoint) as client:
            inputs = [np.eye(3, 4, dtype=np.float32)[index % 3].reshape(1, 2, 2) for index in range(60)]
            results = await asyncio.gather(*(client.infer("toy", x) for x in inputs))
            assert [result.label for result in results] == [0, 1, 2] * 20

    run(work())


def test_a_refusal_is_raised_typed(endpoint: str, daemon: FakeDaemon) -> None:
    daemon.refuse = Refusal(VERSION, b"", "infeasible", "too fast", Offer(latency_ms=3.0))

    async def work() -> None:
        async with AsyncClient(endpoint=endpoint) as client:
            with pytest.raises(BoundsInfeasible) as caught:
                await client.infer("toy", X)
            assert caught.value.offer == Offer(latency_ms=3.0)

    run(work())


def test_cancelling_the_coroutine_takes_the_request_back(endpoint: str, daemon: FakeDaemon) -> None:
    daemon.silent = (Infer,)

    async def work() -> None:
        async with AsyncClient(endpoint=endpoint) as client:
            await client.networks()
            asking = asyncio.create_task(client.infer("toy", X))
            await client.ping()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await client.ping()
            assert Cancel in [type(message) for message in daemon.log]
            assert len(client._connection) == 0

    run(work())


def test_closing_ends_what_waits(endpoint: str, daemon: FakeDaemon) -> None:
    daemon.silent = (Infer,)

    async def work() -> None:
        client = AsyncClient(endpoint=endpoint)
        await client.networks()
        asking = asyncio.create_task(client.infer("toy", X))
        await client.ping()
        await client.close()
        with pytest.raises(Cancelled):
            await asking
        await client.close()
        with pytest.raises(DelenError, match="closed"):
            await client.ping()

    run(work())


@pytest.mark.slow
def test_nobody_there_is_unreachable_after_the_time_out(tmp_path: Path) -> None:
    with serving(FakeDaemon(), tmp_path) as endpoint:
        pass
    Path(endpoint.removeprefix("ipc://")).touch()

    async def work() -> None:
        async with AsyncClient(endpoint=endpoint, timeout_s=0.05) as client:
            with pytest.raises(Unreachable):
                await client.ping()

    run(work())
