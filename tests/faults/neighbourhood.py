"""A daemon with one tenant that behaves and one for each way to hurt it, as an operator would configure them.

Role: `neighbourhood` starts it; `quiet` and `beside` measure the tenant that behaves, alone and beside an attacker.
Does not: judge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from delen.clients.client import Client
from delen.clients.info import TenantStats
from delen.clients.private_daemon import PrivateDaemon
from delen.tests.daemon_fixture import WAIT_S_MAX
from delen.tests.faults.attackers import Report, attacker
from delen.tests.faults.steady import Fared, steady

RATE_HZ = 200.0
# A rate for whoever floods, and as many connections as whoever hoards may have.
FLOODER_HZ, HOARDER_CONNECTIONS = 40, 64
PAYLOAD_BYTES_MAX = 65_536
# Answers are kept for longer than the soak goes on, which asks for one of them at its end.
LIMITS = f"\n[limits]\npayload_bytes_max = {PAYLOAD_BYTES_MAX}\nrun_ms_min = 5000\nanswer_window_ms = 300_000\n"
# What an operator says of each; `watcher` sees everybody's counts.
TENANTS: dict[str, str] = {
    "b": f"rate_hz = {1.5 * RATE_HZ}\nburst = 20\n",
    "watcher": "sees_all = true\n",
    "flood": f"rate_hz_max = {FLOODER_HZ}\nburst_max = {FLOODER_HZ}\n",
    "idle": f"connections_max = {HOARDER_CONNECTIONS}\n",
    **dict.fromkeys(("slow", "churn", "sloth", "endless", "poison"), ""),
}


class Beside(NamedTuple):
    """How tenant b fared, what the attacker says it did, its row before that, and by how much the front has grown."""

    fared: Fared
    report: Report
    before: TenantStats
    grown_bytes: int


def settings(tenants: Mapping[str, str], head: str = "", limits: str = LIMITS) -> str:
    """A configuration of these tenants, asked for by this user."""
    named = [f'\n[[tenants]]\nname = "{name}"\nuids = [{os.getuid()}]\n{said}' for name, said in tenants.items()]
    return head + limits + "".join(named)


@contextmanager
def configured(folder: Path, text: str, networks: Sequence[str] = ("digits",)) -> Iterator[PrivateDaemon]:
    """A daemon, not in development mode, with this configuration."""
    config = folder / f"delen-{os.urandom(4).hex()}.toml"
    config.write_text(text)
    arguments = ("--config", str(config))
    with PrivateDaemon((), networks, arguments=arguments, state_dir=folder / "state", dev=False) as daemon:
        yield daemon


def quiet(daemon: PrivateDaemon, seconds: float) -> Fared:
    """Tenant b with nobody else there."""
    return steady(daemon.endpoint("b"), rate_hz=RATE_HZ, seconds=seconds)


def beside(daemon: PrivateDaemon, kind: str, seconds: float) -> Beside:
    """Tenant b while another hurts. The attacker begins before it and ends after it."""
    front, row = psutil.Process(daemon.pid), row_of(daemon, kind)
    before = front.memory_info().rss
    with attacker(kind, daemon.endpoint(kind), seconds + 0.3) as report:
        fared = steady(daemon.endpoint("b"), rate_hz=RATE_HZ, seconds=seconds)
        grown = front.memory_info().rss - before
        return Beside(fared, report(), row, grown)


def row_of(daemon: PrivateDaemon, tenant: str) -> TenantStats:
    """One tenant's row of the ledger."""
    with watching(daemon) as client:
        (row,) = [row for row in client.stats().tenants if row.tenant == tenant]
    return row


@contextmanager
def watching(daemon: PrivateDaemon) -> Iterator[Client]:
    """Who sees everybody's counts."""
    with Client("watcher", endpoint=daemon.endpoint("watcher"), timeout_s=WAIT_S_MAX) as client:
        yield client
