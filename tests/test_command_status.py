"""`delen ps`: what is rare is shown where it happened; and what a daemon says moves no terminal's cursor."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from delen.clients import cli, tables
from delen.clients.errors import DeadlineExceeded
from delen.clients.wire import StatsReply
from delen.tests.fake_client import STATS, FakeClient


class Client(FakeClient):
    """A daemon as a test has it."""

    told: StatsReply = STATS

    def stats(self) -> StatsReply:
        return self.told


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    tables.out.cache_clear()
    tables.err.cache_clear()
    Client.failure, Client.bounds_seen = None, []
    monkeypatch.setattr("delen.clients.client.Client", Client)
    return Client


def shown(*arguments: str) -> list[str]:
    return CliRunner().invoke(cli.delen, list(arguments), prog_name="delen").output.splitlines()


def test_what_never_happened_takes_no_room(daemon: type[Client]) -> None:
    daemon.told = STATS
    assert not {"beyond", "optional", "not delivered"} & set(" ".join(shown("ps")).split("  "))


def test_what_was_not_delivered_or_beyond_or_optional_is_shown(daemon: type[Client]) -> None:
    row = replace(STATS.tenants[0], undeliverable=31, beyond=42, optional_us=5_000)
    daemon.told = replace(STATS, tenants=(row, STATS.tenants[1]))
    _, head, first, second = shown("ps")
    columns = [name.strip() for name in head.split("  ") if name.strip()]
    values = dict(zip(columns, first.replace(" %", "%").split(), strict=False))
    assert (values["not delivered"], values["beyond"], values["optional"]) == ("31", "42", "25.0%")
    assert "-" in second


def test_what_a_failure_says_is_shown_and_not_obeyed(daemon: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Client) -> StatsReply:
        raise DeadlineExceeded("gone\x1b[2J\u202e and back", code="timeout", hint="ask\x07again")

    monkeypatch.setattr(daemon, "stats", fail)
    assert shown("ps") == [r"delen: gone\x1b[2J\u202e and back", r"  hint: ask\x07again"]
