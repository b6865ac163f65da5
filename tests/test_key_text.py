"""Keys as text: what libzmq takes is taken, anything else has a fault that does not repeat it."""

from __future__ import annotations

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from delen.clients.key_text import fingerprint, key_bytes, key_fault, key_text


def test_keys_of_the_library_have_no_fault_and_come_back_the_same() -> None:
    for _ in range(20):
        public, secret = (key.decode() for key in zmq.curve_keypair())
        for text in (public, secret):
            assert key_fault(text) is None
            assert key_text(key_bytes(text)) == text


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_a_key(raw: bytes) -> None:
    text = key_text(raw)
    assert key_fault(text) is None
    assert key_bytes(text) == raw


@pytest.mark.parametrize(
    "text", ["", "a", "a" * 39, "a" * 41, "a" * 39 + "\n", "a" * 39 + "~", "a" * 39 + "é", "#" * 40, "%nSc1" * 8]
)
def test_what_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    fault = key_fault(text)
    assert fault is not None
    assert len(text) < 5 or text not in fault


@given(st.text(max_size=50))
def test_no_text_breaks_the_check(text: str) -> None:
    if key_fault(text) is None:
        assert key_text(key_bytes(text)) == text


def test_a_fingerprint_is_that_of_the_bytes() -> None:
    raw = bytes(range(32))
    shown = fingerprint(key_text(raw))
    # As `sha256sum | xxd -r -p | base64` has it.
    assert shown == "SHA256:Yw3NKWbEM2aRElRIu7JbT/QSpJxzLbLIq8G4WBvXEN0"
