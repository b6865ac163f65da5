"""TOML from anybody: what no file needs is refused before it takes the reader's time or stack."""

from __future__ import annotations

import pytest

from delen.clients.toml_text import KEY_PARTS_MAX, TomlFault, parse_toml_text


def test_what_files_need_is_read() -> None:
    path = ".".join(["a"] * KEY_PARTS_MAX)
    text = f'[limits]\nqueued_max = 3\nmean = [{", ".join(["0.5"] * 200)}]\nnote = "see a.b.c, 1.2.3"\n{path} = 1\n'
    said = parse_toml_text(text.encode())
    assert said["limits"]["queued_max"] == 3
    assert len(said["limits"]["mean"]) == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a." * 60_000 + "a = 1", "parts"),
        ("[" + '"a".' * 60_000 + "a]", "parts"),
        ("a . " * 60_000 + "a = 1", "parts"),
        ("'x'." * KEY_PARTS_MAX + "a = 1", "parts"),
        ("a = " + "[" * 100_000, "too deep"),
        ("a = " + "{a=" * 50_000, "too deep"),
        ("a = " + "1" * 5_000, "4300 digits"),
        ('a = "\\u0000"', "no name or path"),
        ('a = "\\U00000000"', "no name or path"),
        ("a = = 1", "Invalid value"),
    ],
)
def test_what_would_take_minutes_or_end_in_another_error_is_a_fault_at_once(text: str, words: str) -> None:
    with pytest.raises(TomlFault, match=words):
        parse_toml_text(text.encode())


def test_bytes_that_are_no_text_are_named_by_their_place() -> None:
    with pytest.raises(TomlFault, match=r"not UTF-8: .* at byte 4"):
        parse_toml_text(b"a = \xff")
