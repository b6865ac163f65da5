"""Whatever frames arrive: one typed reply that a client can read, nothing run that was not asked for, nothing raised.

In process, through the very codec and desk that the daemon has; `test_fuzzed_daemon.py` sends some of it to a real one.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest

from delen.clients.wire import DTYPES, RANK_MAX, SIDE_MAX, VERSION, decode_reply, encode
from delen.tests.faults.counts import count, randomness
from delen.tests.fuzz.desk_target import PAYLOAD_BYTES_MAX, Target
from delen.tests.fuzz.hand_made import ENVELOPES, TENSORS, Case
from delen.tests.fuzz.messages import anything, packed
from delen.tests.fuzz.mutations import INTEGERS, TEXTS, spoilt

# Header frames that made a daemon say what no client reads, or might have made it raise.
MESSAGES = Path(__file__).parent.parent / "corpus" / "messages"
# A desk that has heard so much is replaced: what it keeps of earlier requests should not hide what comes after.
MESSAGES_PER_DESK, MESSAGES_PER_RUN = 2_000, 50


@pytest.mark.parametrize("case", [*ENVELOPES.values()], ids=[*ENVELOPES])
def test_a_message_that_was_thought_up_is_judged_as_the_page_says(case: Case) -> None:
    frames, expected = case
    assert Target().feed(frames) == expected


@pytest.mark.parametrize("case", [*TENSORS.values()], ids=[*TENSORS])
def test_a_tensor_that_does_not_fit_its_header_is_refused_by_the_right_code(case: Case) -> None:
    frames, expected = case
    assert Target().feed(frames) == expected


@pytest.mark.parametrize("path", sorted(MESSAGES.glob("*")), ids=lambda path: path.name)
def test_a_message_that_was_once_a_fault_is_none_any_more(path: Path) -> None:
    assert Target().feed([path.read_bytes()]) in ("malformed", "version")


@pytest.mark.slow
@pytest.mark.faults
def test_no_message_gets_anything_but_one_typed_reply() -> None:
    draw = randomness("envelopes")
    target, seen = Target(), set()
    for number in range(3 * count("P10 examples of each property")):
        if number % MESSAGES_PER_DESK == 0:
            target = Target()
        if number % MESSAGES_PER_RUN == 0:
            target.run()
        seen.add(target.feed(anything(draw), draw.choice([b"r", b"r", b"r", b"s"])))
    # A fuzzer whose messages all fail at the door tries the door alone.
    assert {"accepted", "Answer", "Welcome", "BoundsSet", "Noted", "TraceList", "malformed", "version"} <= seen
    assert {"bounds", "infeasible", "shape", "dtype", "unknown_network", "id_reused", "hello_required"} <= seen


@pytest.mark.slow
@pytest.mark.faults
def test_a_tensor_is_taken_exactly_where_header_and_payload_agree() -> None:
    """Against a second reckoning, in numbers that do not overflow."""
    draw = randomness("tensors")
    target, taken = Target(), 0
    for number in range(count("P10 examples of each property")):
        if number % MESSAGES_PER_DESK == 0:
            target = Target()
        dtype, shape = _dtype(draw), _shape(draw)
        size = _size(draw, dtype, shape)
        frames = packed(["infer", VERSION, b"t%d" % number, "net", [[dtype, shape]]], bytes(size))
        got = target.feed(frames)
        assert got == _expected(dtype, shape, size), (dtype, shape, size)
        taken += got == "accepted"
        target.run()
    assert taken > 0


def _dtype(draw: Random) -> str:
    return draw.choice([*DTYPES, "float32", "float32"]) if draw.random() < 0.95 else draw.choice(TEXTS)


def _shape(draw: Random) -> list[int]:
    if draw.random() < 0.2:
        return [1]
    sides = (*range(9), 64, 1024, SIDE_MAX, SIDE_MAX + 1, *INTEGERS)
    return [draw.choice(sides) for _ in range(draw.choice([*range(RANK_MAX + 3), 64]))]


def _size(draw: Random, dtype: str, shape: list[int]) -> int:
    right = math.prod(shape) * DTYPES.get(dtype, 1)
    if 0 <= right <= 4 * PAYLOAD_BYTES_MAX and draw.random() < 0.8:
        return max(0, right + draw.choice([0, 0, 0, 1, -1]))
    return draw.choice([0, 1, 4, 100, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1])


def _expected(dtype: str, shape: list[int], size: int) -> str:
    if dtype not in DTYPES:
        return "dtype" if all(-(2**63) <= side < 2**64 for side in shape) else "malformed"
    if len(shape) > RANK_MAX or any(not 0 <= side <= SIDE_MAX for side in shape):
        return "shape"
    if size > PAYLOAD_BYTES_MAX:
        return "too_large"
    if math.prod(shape) * DTYPES[dtype] != size:
        return "shape"
    if dtype != "float32":
        return "dtype"
    return "accepted" if shape == [1] else "shape"


@pytest.mark.slow
@pytest.mark.faults
def test_no_reply_makes_a_client_do_anything_but_read_or_refuse_it() -> None:
    """A daemon that is not one, or a connection that spoils bytes: the client's reader has the same limits."""
    from delen.clients.wire import WireError
    from delen.tests.test_wire import FAKE_ANSWER

    draw, good = randomness("replies"), encode(FAKE_ANSWER)[0]
    read = 0
    for _ in range(count("P10 examples of each property")):
        try:
            decode_reply(
                [spoilt(draw, bytes(good), draw.choice([1, 1, 2, 4])), bytes(draw.choice([12, 12, 12, 0, 11]))]
            )
        except WireError:
            continue
        read += 1
    assert read > 0
