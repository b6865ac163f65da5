"""A client whose daemon answers everything with the same records: for commands, which only show what they get."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from delen.clients import info, wire
from delen.clients.errors import BoundsInfeasible
from delen.clients.results import Result

EXITS = (
    info.ExitInfo(0, 0.84, 200, 250, 1.5, "modelled", dominated=False, gmac=0.025),
    info.ExitInfo(1, 0.93, 2000, 2400, 15.0, "modelled", dominated=False, gmac=0.18),
)
NETWORK = info.NetworkInfo(
    name="digits",
    version="1",
    classes=tuple("0123456789"),
    dtype="float32",
    shape=(1, 8, 8),
    preprocessing=info.Preprocessing(),
    exits=EXITS,
    batch_max=32,
    engine="onnx",
    profile="measured in full",
)
ANSWER = wire.Answer(
    version=wire.VERSION,
    id=b"1",
    network="digits",
    network_version="1",
    tensors=(wire.TensorSpec("float32", (10,)),),
    label=7,
    exit=1,
    confidence=0.98,
    expected_accuracy=0.93,
    certificate="uncertified",
    queue_us=100,
    compute_us=2000,
    total_us=2200,
    batches=(1, 1),
    energy_mj=15.0,
    energy_source="modelled",
    broken=(),
    stop="last_exit",
)
STATS = wire.StatsReply(
    version=wire.VERSION,
    id=b"1",
    uptime_us=61_000_000,
    queued=0,
    worker="ready",
    worker_restarts=0,
    tenants=(
        info.TenantStats("a", 12, 10, 1, 1, 0, 8, 2, 150.0, "modelled", 20_000, 2200, 2600, {"digits": (4, 6)}),
        info.TenantStats("b", 0, 0, 0, 0, 0, 0, 0, 0.0, "unknown", 0, 0, 0, {}),
    ),
)


class FakeClient:
    """A client whose daemon answers everything with the records above, and remembers the bounds it was given."""

    bounds_seen: list[dict[str, Any]]
    failure: Exception | None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def networks(self) -> tuple[info.NetworkInfo, ...]:
        return (NETWORK,)

    def stats(self) -> wire.StatsReply:
        return STATS

    def infer(self, network: str, x: wire.Array, **bounds: Any) -> Any:
        assert network == "digits"
        assert x.shape == NETWORK.shape
        self.bounds_seen.append(bounds)
        if self.failure is not None:
            raise self.failure
        return Result(ANSWER, bytes(40), "7", 1_000, 4_000)

    def begin(self, network: str, x: wire.Array, on_end: Callable[[Any], None], **bounds: Any) -> bytes:
        try:
            on_end(self.infer(network, x, **bounds))
        except BoundsInfeasible as error:
            on_end(error)
        return b"1"

    def turn(self, wait_us: int) -> None:
        pass

    def submit(self, network: str, x: wire.Array, **bounds: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.infer(network, x, **bounds))
        return future
