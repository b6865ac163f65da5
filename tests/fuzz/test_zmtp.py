"""A real daemon's endpoints under raw ZMTP, right and wrong, over ipc and over tcp with CURVE.

It lives, the healthy tenant beside it is served all the while, and what it took for the fuzzer it gives back. What is
asserted of times are orders of magnitude; the figures stand in the summary.
"""

from __future__ import annotations

import select
import socket
import time

import pytest

from delen.tests.daemon_fixture import WAIT_S_MAX, Plain
from delen.tests.faults.counts import count, randomness
from delen.tests.faults.figures import note
from delen.tests.fuzz.peers import CurvePeers, Peers
from delen.tests.fuzz.watched import Fuzzed, Watched
from delen.tests.fuzz.zmtp import FRAMES, GREETINGS, conversation, greeting, ready, told

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# Until then memory grows, for buffers that stay.
WARM_UP, CHECK_EVERY = 4_000, 500
# Of all probes so many may take a second, on a machine that others use as well; figures say how many did.
LATE_SHARE_MAX = 0.02
# Greetings that are good ones, or as good: as-server means nothing without a password, nor do the filler, minor
# versions and majors to come, and of the signature's last byte one bit counts. ZMTP 1 and 2, which know no handshake
# that could be judged, say 0 and 1.
AS_GOOD = {"filler", "as-server 1", "as-server 2", "as-server 255", "signature ends with 0x1"} | {
    f"version {major}.{minor}" for major in (2, 3, 4, 255) for minor in (0, 1, 255)
}


def judged(name: str, watched: Watched, peers: Peers, began_s: float) -> None:
    """All that must be true after so many cases, and what to say of it."""
    peers.close()
    grown_bytes = watched.over()
    note(f"{name}, growth of memory", grown_bytes / 1024**2, "MiB", beside=f"{peers.count:,} connections")
    note(f"{name}, healthy tenant's worst", watched.worst_s, "s", target=1.0, beside=f"{watched.probes} probes")
    note(f"{name}, rate", peers.count / (time.monotonic() - began_s), "1/s")
    assert watched.late <= 1 + LATE_SHARE_MAX * watched.probes, f"{watched.late} of {watched.probes} probes late"


def test_a_greeting_that_was_thought_up_is_refused_or_comes_to_nothing(fuzzed: Fuzzed) -> None:
    """Whoever is not let in is out when its time for the handshake is over; nobody waits for ever."""
    with Watched(fuzzed.daemon) as watched:
        waiting: dict[socket.socket, str] = {}
        for name, said in GREETINGS.items():
            made = socket.socket(socket.AF_UNIX)
            made.connect(fuzzed.address)
            made.sendall(said + ready())
            waiting[made] = name
        give_up_s = time.monotonic() + WAIT_S_MAX
        while set(waiting.values()) - AS_GOOD and time.monotonic() < give_up_s:
            for made in select.select(list(waiting), [], [], 0.1)[0]:
                if not _more(made):
                    made.close()
                    del waiting[made]
            watched.check()
        left = set(waiting.values())
        for made in waiting:
            made.close()
        assert left <= AS_GOOD, f"never shut: {sorted(left - AS_GOOD)}"
        assert "version 3.0" in left, "a good one stays"
        watched.over()


def _more(made: socket.socket) -> bytes:
    try:
        return made.recv(4096)
    except ConnectionError:
        return b""


def test_frames_that_were_thought_up_do_nothing(fuzzed: Fuzzed) -> None:
    with Watched(fuzzed.daemon) as watched:
        peers = Peers(fuzzed.address)
        for body in FRAMES.values():
            for whole in (greeting() + body, greeting(version=b"\x03\x00") + body):
                peers.say(told(whole))
        judged("P10 frames by hand", watched, peers, time.monotonic())


def test_raw_zmtp_over_ipc(fuzzed: Fuzzed) -> None:
    draw = randomness("ZMTP, NULL")
    refused = malformed_of(fuzzed)
    with Watched(fuzzed.daemon) as watched:
        peers, began_s = Peers(fuzzed.address), time.monotonic()
        for number in range(WARM_UP + count("P10 ZMTP cases, NULL")):
            peers.say(conversation(draw))
            if number == WARM_UP:
                watched.begin()
            if number % CHECK_EVERY == 0:
                watched.check()
        judged("P10 ZMTP, NULL", watched, peers, began_s)
    # What fails at the door tries the door alone: enough must have come through.
    assert peers.answered > peers.count / 10
    assert malformed_of(fuzzed) - refused > peers.count / 100


def test_curve_over_tcp(fuzzed: Fuzzed) -> None:
    """Boxes that open, and one field of one of them that is wrong."""
    from delen.tests.fuzz.curve import Curve

    draw = randomness("ZMTP, CURVE")
    refused = malformed_of(fuzzed)
    with Watched(fuzzed.daemon) as watched:
        peers, began_s = CurvePeers(fuzzed.far, Curve(fuzzed.key), draw), time.monotonic()
        for number in range(WARM_UP // 4 + count("P10 ZMTP cases, CURVE")):
            peers.one()
            if number == WARM_UP // 4:
                watched.begin()
            if number % CHECK_EVERY == 0:
                watched.check()
        judged("P10 ZMTP, CURVE", watched, peers, began_s)
    assert peers.answered > peers.count / 10
    assert malformed_of(fuzzed) - refused > peers.count / 100, "hardly a message in a box was ever read"


def test_null_and_a_password_come_to_nothing_where_curve_is_asked(fuzzed: Fuzzed) -> None:
    draw = randomness("ZMTP over tcp")
    before = malformed_of(fuzzed)
    with Watched(fuzzed.daemon) as watched:
        peers, began_s = Peers(fuzzed.far), time.monotonic()
        for _ in range(WARM_UP // 4):
            said = conversation(draw)
            peers.say(said._replace(then=None))
        judged("P10 ZMTP, NULL over tcp", watched, peers, began_s)
    assert malformed_of(fuzzed) == before, "a message of a stranger was read"


def malformed_of(fuzzed: Fuzzed) -> int:
    """How many messages of the fuzzer came to the desk and were refused there."""
    with Plain(fuzzed.daemon, "fuzz") as plain:
        return plain.row("fuzz").refused
