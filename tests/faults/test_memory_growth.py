"""P7: a daemon that is spoken to badly, or well, for long enough takes no more of the machine than before.

Each class of what is malformed is sent by the thousand, after a warm-up; memory may grow by 1 MiB per thousand, open
descriptors and threads not at all. The same is asked of good requests, with 2 %. Whether the method would see a leak is
asked too: of a daemon into which one was planted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from delen.clients.bounds import Bounds
from delen.clients.places import endpoint_path
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Infer, encode
from delen.tests.daemon_fixture import WAIT_S_MAX, Plain
from delen.tests.faults import figures
from delen.tests.faults.attackers import SPOKEN
from delen.tests.faults.counts import SOAK, count
from delen.tests.faults.footprint import MB, growth
from delen.tests.faults.neighbourhood import PAYLOAD_BYTES_MAX, configured, settings
from delen.tests.faults.planted import LEAK, planting
from delen.tests.faults.steady import SPEC, input_of
from delen.tests.test_daemon_refusals import BAD_MESSAGES

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# So many are under way at once: less than what a tenant may be refused for in one go.
WINDOW = 50
# Who is malformed is not read for a while; here a short one, for there are tens of thousands.
LIMITS = f"\n[limits]\npayload_bytes_max = {PAYLOAD_BYTES_MAX}\ncool_ms = 1\nrun_ms_min = 5000\n"
TENANTS = {"a": "", "watcher": "sees_all = true\n"}

# What is said to the bare socket, none of it a message.
BAD_PEERS: dict[str, bytes] = {
    "nothing at all": b"",
    "another protocol": b"GET / HTTP/1.1\r\nHost: delen\r\n\r\n",
    "half a greeting": SPOKEN[:20],
    "another mechanism": SPOKEN.replace(b"NULL", b"PLAI"),
    "a handshake too long": SPOKEN[:64] + b"\x06" + (2**40).to_bytes(8, "big") + b"x" * 100,
    "half a message": SPOKEN + b"\x01\x06header" + b"\x03" + (65536).to_bytes(8, "big") + b"x" * 1000,
    "a frame too large": SPOKEN + b"\x02" + (2**40).to_bytes(8, "big") + b"x" * 1000,
    "an unknown command": SPOKEN + b"\x04\x05\x04NONE",
    "a whole message and away": SPOKEN + b"\x00\x04\xc1\xc1\xc1\xc1",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with configured(tmp_path_factory.getbasetemp(), settings(TENANTS, limits=LIMITS)) as daemon:
        # Every pool and buffer has been used once: by each class, and by more answers than are kept.
        with Plain(daemon) as plain:
            for frames, _, _ in BAD_MESSAGES.values():
                said(plain, frames, 4 * WINDOW)
            asked(plain, 3_000)
        for bad in BAD_PEERS.values():
            connected(daemon, bad, WINDOW)
        yield daemon


def said(plain: Plain, frames: list[bytes], times: int) -> None:
    """Say this so often; each must have its one reply."""
    for start in range(0, times, WINDOW):
        here = min(WINDOW, times - start)
        for _ in range(here):
            plain.socket.send_multipart(frames, copy=False)
        for _ in range(here):
            plain.socket.recv_multipart()


def asked(plain: Plain, times: int) -> None:
    """Ask for so many answers, each to an input of its own."""
    run = os.urandom(8)
    for start in range(0, times, WINDOW):
        here = min(WINDOW, times - start)
        for number in range(start, start + here):
            message = Infer(VERSION, b"%b%d" % (run, number), "digits", SPEC, Bounds(latency_ms=1000.0 * WAIT_S_MAX))
            plain.socket.send_multipart(encode(message, (input_of(number),)))
        for _ in range(here):
            assert len(plain.socket.recv_multipart()) == 2, "no answer"


def connected(daemon: PrivateDaemon, bad: bytes, times: int) -> None:
    """So many connections that say this and go; what the daemon makes of the last has been seen when this returns."""
    path = str(endpoint_path(daemon.runtime_dir, "a"))
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(WAIT_S_MAX)
            while True:
                try:
                    one.connect(path)
                    break
                except BlockingIOError:
                    continue
            # Whom it has refused already, it has hung up on.
            with suppress(OSError):
                one.sendall(bad)
    with Plain(daemon) as plain:
        for _ in range(20):
            plain.until_pong()


def is_steady(daemon: PrivateDaemon, name: str, play: Callable[[], None], times: int) -> None:
    """Play this; P7's limits hold, or the test fails."""
    most = MB * times // 1_000
    found = growth(daemon, play, resident_bytes_max=most)
    assert found.resident_bytes <= most, f"{name}: memory grew by {found.resident_bytes / MB:.2f} MiB in {times}"
    assert found.fds <= 0, f"{name}: {found.fds} more descriptors"
    assert found.threads <= 0, f"{name}: {found.threads} more threads"
    grown.append(found.resident_bytes * 1_000 / times)


grown: list[float] = []


def test_no_class_of_malformed_messages_makes_it_grow(daemon: PrivateDaemon) -> None:
    times = count("P7 malformed requests of each class")
    assert len(BAD_MESSAGES) + len(BAD_PEERS) >= 20
    grown.clear()
    with Plain(daemon) as plain:
        for name, (frames, _, _) in BAD_MESSAGES.items():
            # A thousand frames are a thousand times as much.
            here = times if len(frames) < 100 else times // 10
            is_steady(daemon, name, partial(said, plain, frames, here), here)
    figures.note("P7 growth per 1,000 malformed messages, worst class", max(grown) / MB, "MiB", target=1.0)


def test_no_peer_that_speaks_no_zmtp_makes_it_grow(daemon: PrivateDaemon) -> None:
    times = count("P7 malformed requests of each class")
    grown.clear()
    for name, bad in BAD_PEERS.items():
        is_steady(daemon, name, partial(connected, daemon, bad, times), times)
    figures.note("P7 growth per 1,000 malformed connections, worst class", max(grown) / MB, "MiB", target=1.0)


def test_good_requests_do_not_make_it_grow(daemon: PrivateDaemon) -> None:
    times = count("P7 good requests")
    share_max = 0.02
    with Plain(daemon) as plain:
        most = int(share_max * 50 * MB)
        found = growth(daemon, partial(asked, plain, times), resident_bytes_max=most)
    figures.note(f"P7 growth over {times:,} good requests", 100 * found.resident_bytes / (50 * MB), "%", target=2.0)
    assert (found.fds, found.threads) <= (0, 0)
    assert found.resident_bytes <= most


def test_a_build_that_leaks_fails_the_same_check(tmp_path: Path) -> None:
    times = 1_000 if SOAK else 500
    with (
        planting(tmp_path, "delen.daemon.desk", LEAK),
        configured(tmp_path, settings(TENANTS, limits=LIMITS)) as leaky,
        Plain(leaky) as plain,
    ):
        frames, _, _ = BAD_MESSAGES["truncated header"]
        said(plain, frames, 4 * WINDOW)
        with pytest.raises(AssertionError, match="memory grew"):
            is_steady(leaky, "planted", partial(said, plain, frames, times), times)
