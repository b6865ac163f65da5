"""A real daemon given what the in-process fuzzers make: bad envelopes, bad tensors, and inputs of odd numbers.

Each gets what `wire.py` says it gets, by the hand of the daemon this time, and the tenant beside is served as ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from delen.clients.wire import (
    HEADER_BYTES_MAX,
    VERSION,
    Answer,
    Failure,
    Ping,
    Refusal,
    Reply,
    WireError,
    decode_request,
)
from delen.daemon.sockets import PARTS_MAX
from delen.tests.daemon_fixture import PAYLOAD_BYTES_MAX, Plain
from delen.tests.faults.counts import count, randomness
from delen.tests.fuzz.hand_made import ENVELOPES, TENSORS
from delen.tests.fuzz.messages import anything
from delen.tests.fuzz.watched import Fuzzed, Watched

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# As many as are sent before their replies are read: what the daemon has room for towards one reader.
TOGETHER = 200
SHAPE = (1, 8, 8)
# Beyond it the library drops the connection, as WIRE.md says, and what was on its way with it.
FRAME_BYTES_MAX = PAYLOAD_BYTES_MAX + HEADER_BYTES_MAX


@pytest.fixture
def plain(fuzzed: Fuzzed) -> Iterator[Plain]:
    with Plain(fuzzed.daemon, "fuzz") as made:
        yield made


def expected(frames: Sequence[bytes]) -> str | None:
    """The code with which the codec refuses this, as it comes off a socket; None where it is a message."""
    frames = frames[1:] if len(frames) > 1 and not frames[0] else frames
    frames = [] if list(frames) == [b""] else frames
    try:
        decode_request(frames[:PARTS_MAX], PAYLOAD_BYTES_MAX)
    except WireError as error:
        return error.code
    return None


def sent(plain: Plain, messages: Sequence[Sequence[bytes]]) -> None:
    """Send all, and see that what is no message is refused, each once, and what is one gets at most one reply."""
    wanted: Counter[str] = Counter()
    for frames in messages:
        wanted[expected(frames) or "a message"] += 1
        plain.socket.send_multipart(frames)
    got: Counter[str] = Counter(_kind(reply) for reply in _replies(plain))
    for code in ("malformed", "version", "too_large"):
        # Names of clients are judged by the desk, as malformed too.
        assert wanted[code] <= got[code] <= wanted[code] + wanted["a message"], (code, wanted, got)
    assert got.total() <= len(messages)
    assert got.total() >= len(messages) - wanted["a message"]


def _replies(plain: Plain) -> Iterator[Reply]:
    """All that comes before the pong to a ping of our own; there are others among the messages."""
    ping = Ping(VERSION, b"last-" + plain.new_id())
    plain.send(ping)
    while (reply := plain.receive()).id != ping.id:
        yield reply


def _kind(reply: Reply) -> str:
    return reply.code if isinstance(reply, Refusal) else type(reply).__name__


def test_all_that_was_thought_up(fuzzed: Fuzzed, plain: Plain) -> None:
    messages = [frames for frames, _ in (*ENVELOPES.values(), *TENSORS.values()) if frames]
    with Watched(fuzzed.daemon) as watched:
        for start in range(0, len(messages), TOGETHER):
            sent(plain, messages[start : start + TOGETHER])
        watched.check()
    plain.answers([plain.infer()])


def test_a_sample_of_what_is_generated(fuzzed: Fuzzed, plain: Plain) -> None:
    draw = randomness("envelopes to a daemon")
    with Watched(fuzzed.daemon) as watched:
        for number in range(count("P10 examples of each property") // 2 // TOGETHER):
            made = [anything(draw) for _ in range(TOGETHER)]
            sent(plain, [frames for frames in made if frames and max(map(len, frames)) <= FRAME_BYTES_MAX])
            if number == 2:
                watched.begin()
            watched.check()
        plain.__exit__()
        watched.over()


def test_no_numbers_hurt_anybody(fuzzed: Fuzzed, plain: Plain) -> None:
    """NaN, infinities, denormals, constants, what keeps a network unsure: a typed end for each, and a worker alive."""
    draw = np.random.default_rng(randomness("tensor values").getrandbits(64))
    before = plain.stats().worker_restarts
    with Watched(fuzzed.daemon) as watched:
        ends: Counter[str] = Counter()
        images = [*_odd(), *(_generated(draw) for _ in range(count("P10 examples of each property") // 20))]
        for start in range(0, len(images), TOGETHER):
            ids = [plain.infer(image) for image in images[start : start + TOGETHER]]
            for request_id, reply in plain.ends(ids).items():
                if isinstance(reply, Answer):
                    logits = np.frombuffer(plain.tensors.pop(request_id), "<f4")
                    assert np.isfinite(logits).all()
                    assert 0 < reply.confidence <= 1
                    ends["answer"] += 1
                else:
                    assert isinstance(reply, Failure | Refusal)
                    ends[reply.code] += 1
            watched.check()
        # Whoever sends numbers that are none hurts itself.
        with Plain(fuzzed.daemon, "healthy") as healthy:
            healthy.answers([healthy.infer() for _ in range(TOGETHER)])
    assert plain.stats().worker_restarts == before
    assert set(ends) <= {"answer", "input", "output", "quarantined"}, ends
    # Finite numbers that overflow in the network look like its fault: it is barred for a while, for their sender alone.
    assert ends["answer"] > 0
    assert ends["input"] > 0


def _odd() -> list[npt.NDArray[np.float32]]:
    values = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-45, 1e-38, 1e30, -1e30, 3.4e38, np.nan, np.inf, -np.inf)
    found = [np.full(SHAPE, value, np.float32) for value in values]
    for value in (np.nan, np.inf, -np.inf, 3.4e38, 1e-45):
        one = np.zeros(SHAPE, np.float32)
        one[0, 7, 7] = value
        found.append(one)
    pattern = np.indices(SHAPE).sum(axis=0) % 2
    return [*found, *((pattern * scale).astype(np.float32) for scale in (1.0, -1.0, 3.4e38))]


def _generated(draw: np.random.Generator) -> npt.NDArray[np.float32]:
    """Plain ones, of any scale, or of any bits at all."""
    how = draw.random()
    if how < 0.5:
        return draw.uniform(0, 1, SHAPE).astype(np.float32)
    if how < 0.8:
        with np.errstate(over="ignore"):
            return (draw.normal(size=SHAPE) * 10.0 ** draw.integers(-45, 39)).astype(np.float32)
    return draw.integers(0, 2**32, SHAPE, dtype=np.uint32).view(np.float32)
