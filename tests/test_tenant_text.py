"""Tenants' files as text: what an operator wrote by hand stays, and keys come and end where they should."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.clients.key_text import key_text
from delen.clients.tenant_text import KeyAbsent, new_tenant, quoted, with_end, with_key, without_key
from delen.daemon.tenant_files import tenant_of
from delen.daemon.toml_file import parse_toml

FIRST, SECOND, THIRD = (key_text(bytes([value]) * 32) for value in (1, 2, 3))
END = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
PATH = Path("acme.toml")
BY_HAND = f"""# The gate's cameras; ask Ana before changing.
uids = [1001]   # the recorder
networks = ["digits"]

[deepest_exit]
digits = 1

[[keys]]  # from spring
public = "{FIRST}"
note = "gate"

[[keys]]
public = '{SECOND}'
not_after = 2026-06-01T00:00:00Z
"""


def publics(text: str) -> list[str]:
    return [key.public for key in tenant_of(text.encode(), PATH).keys]


def test_a_new_tenant_is_what_was_asked_for() -> None:
    settings = [("rate_hz_max", 20.0), ("burst_max", None), ("tcp_port", 5701)]
    text = new_tenant("acme", uids=[1001, 7], networks=["digits", "x"], settings=settings, public=FIRST)
    tenant = tenant_of(text.encode(), PATH)
    assert (tenant.uids, tenant.networks, tenant.rate_hz_max) == ((1001, 7), ("digits", "x"), 20.0)
    assert (tenant.tcp_port, tenant.burst_max) == (5701, 1)
    assert publics(text) == [FIRST]


def test_a_key_comes_after_everything_else() -> None:
    text = with_key(BY_HAND, THIRD, not_before=END, note='said "so"\n[[keys]]')
    assert text.startswith(BY_HAND.rstrip("\n"))
    keys = tenant_of(text.encode(), PATH).keys
    assert publics(text) == [FIRST, SECOND, THIRD]
    assert keys[2].not_before == END
    assert keys[2].note == 'said "so" [[keys]]'


@pytest.mark.parametrize("public", [FIRST, SECOND])
def test_a_key_ends_and_nothing_else_changes(public: str) -> None:
    text = with_end(BY_HAND, public, END)
    assert "ask Ana" in text
    ends = {key.public: key.not_after for key in tenant_of(text.encode(), PATH).keys}
    assert ends[public] == END
    before = {key.public: key.not_after for key in tenant_of(BY_HAND.encode(), PATH).keys}
    assert {k: v for k, v in ends.items() if k != public} == {k: v for k, v in before.items() if k != public}


@pytest.mark.parametrize("public", [FIRST, SECOND])
def test_a_key_goes_and_nothing_else_changes(public: str) -> None:
    text = without_key(BY_HAND, public)
    assert public not in text
    assert publics(text) == [key for key in (FIRST, SECOND) if key != public]
    tenant = tenant_of(text.encode(), PATH)
    assert (tenant.uids, dict(tenant.deepest_exit)) == ((1001,), {"digits": 1})


def test_a_key_that_is_not_there_or_written_otherwise_is_not_guessed_at() -> None:
    inline = f'keys = [{{ public = "{FIRST}" }}]\n'
    assert publics(inline) == [FIRST]
    for text, public in ((BY_HAND, THIRD), (inline, FIRST), (f"# {FIRST}\n", FIRST)):
        with pytest.raises(KeyAbsent):
            with_end(text, public, END)
        with pytest.raises(KeyAbsent):
            without_key(text, public)


@given(st.text(max_size=60))
def test_any_text_is_one_harmless_string(said: str) -> None:
    parsed = parse_toml(f"note = {quoted(said)}\nend = 1\n".encode(), PATH)
    assert parsed["end"] == 1
    assert parsed["note"] == "".join(character if character.isprintable() else " " for character in said)
