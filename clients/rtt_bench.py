"""What delen adds to a bare ZeroMQ echo: round trips of an identity network against an echo, in turns, in one run.

Role: `delen bench rtt`. The echo is a ROUTER in a process of its own that returns 40 bytes; the identity network
returns 40 bytes of logits through front, worker and shared memory. What the engine itself took is reported apart, so
`(delen - engine) / echo` is the price of everything delen does. The two alternate in short rounds, so that noise hits
both; a fixed pure-Python loop is timed in the same run, to compare machines.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zmq

from .client import Client
from .private_daemon import PrivateDaemon

ROUNDS, ROUND_SIZE, WARM_UP = 40, 50, 200
# By name, with their inputs' shapes; of float32.
NETWORKS = {"identity-3k": (784,), "identity-600k": (3, 224, 224)}
REPLY_BYTES = 40
CALIBRATION_STEPS = 200_000


class RoundTrips(msgspec.Struct, frozen=True):
    """Medians over all rounds, us, for one input size. `overhead_ratio` = (delen - engine) / echo."""

    input_bytes: int
    n: int
    echo_p50_us: float
    echo_p99_us: float
    delen_p50_us: float
    delen_p99_us: float
    engine_p50_us: float
    overhead_ratio: float


class RttReport(msgspec.Struct, frozen=True):
    """`delen bench rtt`: the small input's figures at the top, both sizes in `sizes`."""

    echo_p50_us: float
    delen_p50_us: float
    engine_p50_us: float
    overhead_ratio: float
    calibration_loop_us: float
    sizes: tuple[RoundTrips, ...]


def bench_rtt(rounds: int = ROUNDS, on_progress: Callable[[int, int], None] = lambda done, total: None) -> RttReport:
    """Start an echo and a daemon, measure both in turns. `on_progress`: rounds done, rounds in all."""
    sizes = []
    with tempfile.TemporaryDirectory(prefix="delen-") as scratch, PrivateDaemon(["bench"], list(NETWORKS)) as daemon:
        address = f"ipc://{Path(scratch) / 'echo'}"
        echo = subprocess.Popen([sys.executable, "-m", "delen.clients.rtt_bench", address])
        try:
            with Client("bench", endpoint=daemon.endpoint("bench")) as client, zmq.Context() as context:
                for index, (name, shape) in enumerate(NETWORKS.items()):
                    value = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

                    def report(done: int, before: int = index * rounds) -> None:
                        on_progress(before + done, 2 * rounds)

                    sizes.append(_measure(client, context, address, (name, value), report, rounds=rounds))
        finally:
            echo.terminate()
            echo.wait()
    small = sizes[0]
    return RttReport(
        echo_p50_us=small.echo_p50_us,
        delen_p50_us=small.delen_p50_us,
        engine_p50_us=small.engine_p50_us,
        overhead_ratio=small.overhead_ratio,
        calibration_loop_us=calibration_loop_us(),
        sizes=tuple(sizes),
    )


def calibration_loop_us() -> float:
    """Median time of a fixed pure-Python loop on this machine, us: the yardstick for absolute figures."""
    times = []
    for _ in range(7):
        start_ns = time.perf_counter_ns()
        total = 0
        for step in range(CALIBRATION_STEPS):
            total += step & 3
        times.append((time.perf_counter_ns() - start_ns) / 1000)
    return statistics.median(times)


def _measure(
    client: Client,
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    asked: tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    on_round: Callable[[int], None],
    *,
    rounds: int,
) -> RoundTrips:
    network, value = asked
    echo_us: list[float] = []
    delen_us: list[float] = []
    engine_us: list[float] = []
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        _echo(socket, value, WARM_UP)
        for _ in range(WARM_UP):
            client.infer(network, value)
        for done in range(rounds):
            echo_us += _echo(socket, value, ROUND_SIZE)
            for _ in range(ROUND_SIZE):
                start_ns = time.perf_counter_ns()
                result = client.infer(network, value)
                delen_us.append((time.perf_counter_ns() - start_ns) / 1000)
                engine_us.append(float(result.answer.compute_us))
            on_round(done + 1)
    medians = [statistics.median(times) for times in (echo_us, delen_us, engine_us)]
    return RoundTrips(
        input_bytes=value.nbytes,
        n=len(echo_us),
        echo_p50_us=medians[0],
        echo_p99_us=_p99(echo_us),
        delen_p50_us=medians[1],
        delen_p99_us=_p99(delen_us),
        engine_p50_us=medians[2],
        overhead_ratio=(medians[1] - medians[2]) / medians[0],
    )


def _echo(
    socket: zmq.Socket[bytes], value: np.ndarray[tuple[int, ...], np.dtype[np.float32]], count: int
) -> list[float]:
    """A bare client: header and tensor out, 40 bytes back; times in us."""
    times = []
    for _ in range(count):
        start_ns = time.perf_counter_ns()
        socket.send_multipart([b"header", value.data], copy=True)
        socket.recv_multipart()
        times.append((time.perf_counter_ns() - start_ns) / 1000)
    return times


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


def serve_echo(address: str) -> None:
    """A bare ROUTER that returns 40 bytes for everything, until it is terminated."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(address)
        while True:
            route, *_ = socket.recv_multipart()
            socket.send_multipart([route, bytes(REPLY_BYTES)])


if __name__ == "__main__":
    serve_echo(sys.argv[1])
