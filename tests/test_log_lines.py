"""Log lines: one event is one line whatever is in it, none is too long, and a flood of one kind is counted."""

from __future__ import annotations

import json
import string
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.daemon.log_lines import LINE_BYTES_MAX, Event, Form, Throttle, Value, escaped, render

FORMS = get_args(Form)
WINDOW_US = 10_000_000
# What a tenant, a model file or an engine could put into a text to write lines of its own.
EVIL = (
    "a\nroot logged in",
    "a\r\x1b[2K\x1b[31mfine",
    "\x00\x7f\x9b31m",
    "\u202egnp.exe",
    "\u2028next",
    "\udc80",
    'x" level=error y="',
)
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=12)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()))


def line(text: str, form: Form = "text", **fields: Value) -> str:
    return render(Event("2026-01-01T00:00:00.000Z", "info", text, fields), form).decode()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("evil", EVIL)
def test_nothing_said_begins_a_line_or_moves_a_cursor(evil: str, form: Form) -> None:
    written = line(f"network {evil}", form, tenant=evil)
    assert written.endswith("\n")
    assert written[:-1].isprintable()


@given(text=st.text(st.characters()), fields=st.dictionaries(NAMES, VALUES, max_size=20), form=st.sampled_from(FORMS))
def test_every_line_is_printable_and_short(text: str, fields: dict[str, Value], form: Form) -> None:
    written = render(Event("now", "warning", text, fields), form, priority=True)
    assert len(written) <= LINE_BYTES_MAX
    assert written.decode()[:-1].isprintable()
    assert written.startswith(b"<4>")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("char", ["a", "\n", "\U0001f600", "\U000e0001"])
def test_what_is_too_long_is_cut_and_says_so(char: str, form: Form) -> None:
    written = render(Event("now", "info", char * 100_000, {f"field_{i}": char * 9_000 for i in range(40)}), form)
    assert 100 < len(written) <= LINE_BYTES_MAX
    assert ("\\u2026" if form == "json" else "…") in written.decode()


def test_json_lines_are_read_back_as_they_were_said() -> None:
    told = json.loads(line("bad \x1b[0m name", "json", tenant='a "b"', count=3, share=0.5, known=None, late=True))
    assert told == {
        "time": "2026-01-01T00:00:00.000Z",
        "level": "info",
        "message": "bad \x1b[0m name",
        "tenant": 'a "b"',
        "count": 3,
        "share": 0.5,
        "known": None,
        "late": True,
    }
    assert json.loads(line("x", "json", share=float("nan")))["share"] == "nan"


def test_logfmt_quotes_what_could_be_taken_for_more() -> None:
    written = line('half\\way "there"', "logfmt", tenant="a=b", plain="abc", empty="", nothing=None)
    assert 'msg="half\\\\way \\"there\\""' in written
    assert written.endswith('tenant="a=b" plain=abc empty="" nothing=null\n')


def test_plain_text_stays_as_it_is() -> None:
    assert line("ready; tenants a, b; sockets in /run/delen") == "ready; tenants a, b; sockets in /run/delen\n"
    assert escaped("Dělen ✓") == "Dělen ✓"


def test_one_key_has_one_line_in_a_window_and_the_rest_is_counted() -> None:
    throttle = Throttle(window_us=WINDOW_US, lines_max=100)
    assert [throttle.admit(now, "auth", "info", "no") for now in (0, 1, 2)] == [0, None, None]
    assert throttle.admit(3, "other", "info", "else") == 0
    assert throttle.wake_at() == WINDOW_US
    assert list(throttle.due(WINDOW_US - 1)) == []
    assert throttle.admit(WINDOW_US, "auth", "info", "no") == 2
    assert throttle.admit(WINDOW_US + 1, "auth", "error", "last of it") is None
    (kept,) = throttle.due(2 * WINDOW_US)
    assert kept == ("auth", "error", "last of it", 1)
    assert throttle.wake_at() is None


def test_all_keys_together_have_a_limit_and_so_has_what_is_remembered() -> None:
    throttle = Throttle(window_us=WINDOW_US, lines_max=10, keys_max=4)
    admitted = [throttle.admit(0, f"key {index}", "info", "x") for index in range(1000)]
    assert admitted.count(0) == 10
    assert throttle.over == 990
    assert len(throttle._keys) == 4
    assert throttle.admit(WINDOW_US, "late", "info", "x") == 0


def test_what_was_kept_back_of_a_forgotten_key_is_counted() -> None:
    throttle = Throttle(window_us=WINDOW_US, lines_max=100, keys_max=1)
    for _ in range(5):
        throttle.admit(0, "first", "info", "x")
    throttle.admit(0, "second", "info", "x")
    assert throttle.over == 4
