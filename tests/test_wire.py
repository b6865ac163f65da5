"""The codec: what is sent comes out the same, and what breaks the protocol is refused with a code and the id."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.wire import (
    ANSWER_BYTES_MAX,
    DTYPES,
    HEADER_BYTES_MAX,
    VERSION,
    Hello,
    Infer,
    Ping,
    Pong,
    Refusal,
    SetConditions,
    TensorSpec,
    WireError,
    array,
    decode_reply,
    decode_request,
    encode,
    tensor_spec,
)
from delen.tests.fake_daemon import FakeDaemon

LIMIT = 1000


def infer(tensors: tuple[TensorSpec, ...], bounds: Bounds = Bounds()) -> Infer:  # noqa: B008  it is frozen
    return Infer(VERSION, b"id", "toy", tensors, bounds)


def refused(frames: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        decode_request(frames, LIMIT)
    return caught.value


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_tensor_of_every_dtype_arrives_as_it_was_sent(dtype: str) -> None:
    sent = np.arange(6).reshape(2, 3).astype(dtype)
    frames = encode(infer((tensor_spec(sent),)), (sent,))
    message = decode_request(frames, LIMIT)
    assert isinstance(message, Infer)
    arrived = array(message.tensors[0], frames[1])
    assert arrived.dtype == sent.dtype
    np.testing.assert_array_equal(arrived, sent)


def test_an_array_that_is_not_contiguous_is_sent_in_row_major_order() -> None:
    sent = np.arange(6, dtype=np.int32).reshape(2, 3).T
    frames = encode(infer((tensor_spec(sent),)), (sent,))
    np.testing.assert_array_equal(array(tensor_spec(sent), frames[1]), sent)


def test_bounds_left_out_and_bounds_taken_back_stay_apart() -> None:
    message = decode_request(encode(Hello(VERSION, b"id", "c", Bounds(latency_ms=None))), LIMIT)
    assert isinstance(message, Hello)
    assert message.bounds.latency_ms is None
    assert message.bounds.accuracy is msgspec.UNSET


def test_another_version_is_refused_with_the_id() -> None:
    error = refused([msgspec.msgpack.encode(["ping", VERSION + 1, b"id"])])
    assert (error.code, error.request_id) == ("version", b"id")


def test_an_id_that_is_none_is_not_given_back() -> None:
    """The reply would be one that no client reads."""
    assert refused([msgspec.msgpack.encode(["ping", VERSION + 1, b"x" * 65])]).request_id == b""


def test_another_version_of_an_unknown_message_is_refused_as_a_version() -> None:
    error = refused([msgspec.msgpack.encode(["teleport", VERSION + 1, b"id", {}])])
    assert (error.code, error.request_id) == ("version", b"id")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "empty"),
        ([b""], "msgpack"),
        ([b"\xc1"], "msgpack"),
        ([msgspec.msgpack.encode({"ping": 1})], "array"),
        ([msgspec.msgpack.encode(["ping", VERSION])], "array"),
        ([msgspec.msgpack.encode(["ping", VERSION, b""])], "0 bytes"),
        ([msgspec.msgpack.encode(["ping", VERSION, b"x" * 65])], "65 bytes"),
        ([msgspec.msgpack.encode(["ping", VERSION, b"id"]), b"x"], "tensor frames follow"),
        ([b"x" * (HEADER_BYTES_MAX + 1)], "header of"),
        ([b"\x91" * 2000], "msgpack"),
    ],
)
def test_what_is_no_message_is_malformed(frames: list[bytes], words: str) -> None:
    error = refused(frames)
    assert error.code == "malformed"
    assert words in str(error)


@pytest.mark.parametrize(
    "header",
    [
        ["infer", VERSION, b"id", "toy"],
        ["infer", VERSION, b"id", "toy", [["float32", [1]]], {"latncy_ms": 1}],
        ["infer", VERSION, b"id", "toy", [["float32", [1]]], {}, "", "more"],
        ["infer", VERSION, b"id", "toy", [["float32", [1]]], {}, "0" * 513],
        ["hello", VERSION, b"id", "c", {"objective": "speed"}],
        ["teleport", VERSION, b"id"],
    ],
    ids=["field missing", "unknown key", "field too many", "traceparent too long", "unknown word", "unknown message"],
)
def test_a_wrong_header_is_malformed_and_its_id_is_told(header: list[Any]) -> None:
    error = refused([msgspec.msgpack.encode(header), *([b"\0" * 4] if header[0] == "infer" else [])])
    assert (error.code, error.request_id) == ("malformed", b"id")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["hello", VERSION, b"id", "c", {"conditions": [{}] * 60_000}], "length <= 32"),
        (["infer", VERSION, b"id", "toy", [["float32", [1] * 60_000]]], "length <= 64"),
        (["infer", VERSION, b"id", "toy", [["float32", []]] * 5_000], "length <= 64"),
        (["adapt", VERSION, b"id", {"conditions": {"toy": [{}] * 60_000}}], "length <= 32"),
        (["adapt", VERSION, b"id", {"conditions": {str(n): [] for n in range(8_000)}}], "length <= 64"),
    ],
    ids=["sets of conditions", "sides", "tensors", "an adaptation's sets", "an adaptation's networks"],
)
def test_what_may_not_be_long_is_refused_before_it_is_decoded(header: list[Any], words: str) -> None:
    # Decoded, each would take the front's loop 6 to 17 ms, and a turn reads sixteen of them.
    assert words in str(refused([msgspec.msgpack.encode(header), b"\0" * 4]))


def test_what_follows_the_head_of_an_unknown_message_is_passed_over() -> None:
    header = msgspec.msgpack.encode(["teleport", VERSION, b"id", [{}] * 60_000])
    tracemalloc.start()
    try:
        assert refused([header]).request_id == b"id"
        assert tracemalloc.get_traced_memory()[1] < 100_000, "no object for each of its parts"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        ["hello", VERSION, b"id", "c", {"k" * 65_000: 1}],
        ["hello", VERSION, b"id", "c", {"objective": "k" * 65_000}],
        ["k" * 65_000, VERSION, b"id"],
    ],
    ids=["key", "word", "name"],
)
def test_a_refusal_never_gives_back_as_much_as_it_was_sent(header: list[Any]) -> None:
    assert len(str(refused([msgspec.msgpack.encode(header)]))) < 500


@pytest.mark.parametrize(
    ("spec", "size", "code"),
    [
        (("float32", (2,)), 4, "shape"),
        (("float32", (-1,)), 4, "shape"),
        (("float32", (-1, -1)), 4, "shape"),
        (("float32", (1,) * 9), 4, "shape"),
        (("float32", (2**40, 2**40)), 4, "shape"),
        (("object", (1,)), 8, "dtype"),
        (("float64", (1,)), 8, "dtype"),
        (("uint8", (LIMIT + 1,)), LIMIT + 1, "too_large"),
    ],
)
def test_a_tensor_that_does_not_fit_its_description_is_refused(
    spec: tuple[str, tuple[int, ...]], size: int, code: str
) -> None:
    error = refused([*encode(infer((TensorSpec(*spec),))), b"\0" * size])
    assert (error.code, error.request_id) == (code, b"id")


@pytest.mark.parametrize("frame_count", [0, 2])
def test_a_request_has_exactly_one_tensor_frame(frame_count: int) -> None:
    frames = [*encode(infer((TensorSpec("uint8", (1,)),))), *([b"\0"] * frame_count)]
    assert refused(frames).code == "malformed"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0, 1e9])
def test_a_bound_that_cannot_be_is_refused(value: float) -> None:
    frames = encode(Hello(VERSION, b"id", "c", Bounds(latency_ms=value)))
    assert refused(frames).code == "bounds"


def test_conditions_are_checked_where_they_are_set() -> None:
    never = (ConditionSet(all_of=(Condition("accuracy", "less", float("nan")),)),)
    assert refused(encode(SetConditions(VERSION, b"id", "toy", never))).code == "bounds"


def test_an_answer_whose_tensor_is_cut_short_is_an_error_not_a_crash() -> None:
    daemon = FakeDaemon(strict=False)
    sent = np.ones((1, 2, 2), np.float32)
    frames = daemon.reply(b"peer", encode(infer((tensor_spec(sent),)), (sent,)))
    assert frames is not None
    assert decode_reply(frames).id == b"id"
    for broken in ([frames[0]], [frames[0], bytes(frames[1])[:-1]], [*frames, b""]):
        with pytest.raises(WireError):
            decode_reply(broken)


def test_an_answer_larger_than_any_answer_is_refused() -> None:
    header = msgspec.msgpack.decode(encode(FAKE_ANSWER)[0])
    header[5] = [["uint8", [ANSWER_BYTES_MAX + 1]]]
    with pytest.raises(WireError, match="at most"):
        decode_reply([msgspec.msgpack.encode(header), b"\0" * (ANSWER_BYTES_MAX + 1)])


def test_a_reply_without_tensors_has_one_frame() -> None:
    assert decode_reply(encode(Pong(VERSION, b"id"))) == Pong(VERSION, b"id")
    with pytest.raises(WireError):
        decode_reply([*encode(Refusal(VERSION, b"id", "rate", "slower")), b"x"])


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_no_bytes_do_anything_but_decode_or_be_refused(frames: list[bytes]) -> None:
    for decode in (lambda: decode_request(frames, LIMIT), lambda: decode_reply(frames)):
        with contextlib.suppress(WireError):
            decode()


@given(st.data())
def test_no_change_of_a_header_does_anything_but_decode_or_be_refused(data: st.DataObject) -> None:
    header = bytearray(encode(infer((TensorSpec("uint8", (1,)),), Bounds(latency_ms=1.0, objective="energy")))[0])
    index = data.draw(st.integers(0, len(header) - 1))
    header[index] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode_request([bytes(header), b"\0"], LIMIT)


def test_a_ping_is_as_small_as_it_looks() -> None:
    assert bytes(encode(Ping(VERSION, b"\x01"))[0]) == b"\x93\xa4ping\x01\xc4\x01\x01"


_TENSOR = np.ones((1, 2, 2), np.float32)
_ANSWERED = FakeDaemon(strict=False).reply(b"peer", encode(infer((tensor_spec(_TENSOR),)), (_TENSOR,)))
assert _ANSWERED is not None
FAKE_ANSWER = decode_reply(_ANSWERED)
