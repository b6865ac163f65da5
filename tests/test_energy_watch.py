"""Adaptations as the operator configures them: from the start, after a reload, and beside what tenants say."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from delen.clients.adaptation import Adaptation
from delen.daemon.budget_events import tell
from delen.daemon.config import Config, Limits
from delen.daemon.counters import Counters
from delen.daemon.desk import Desk
from delen.daemon.energy_watch import EVERY_US, EnergyWatch
from delen.daemon.journal_records import AdaptedTo
from delen.daemon.rights import TenantConfig
from delen.daemon.server import Server

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)


def watched(*tenants: TenantConfig, counters: Counters | None = None) -> tuple[Server, Desk, EnergyWatch, list[str]]:
    server, noted = Server(Limits()), list[str]()
    desk = Desk(server, tenants, Limits(), "boot")
    config, known = Config(tenants=tenants, meter="none"), (server, desk, counters or Counters())
    return server, desk, EnergyWatch(config, known, noted.append, NOW.timestamp, 0), noted


def test_what_is_configured_holds_from_the_start_and_after_a_reload() -> None:
    first, second = Adaptation("fixed", exit=0), Adaptation("load")
    server, desk, watch, noted = watched(TenantConfig(name="a", adaptation=first), TenantConfig(name="b"))
    budgets = server.ledger.budgets
    assert budgets.adaptation("a") == first
    assert budgets.adaptation("b") == Adaptation()
    desk.change((TenantConfig(name="a", adaptation=second), TenantConfig(name="b")))
    watch.turn(EVERY_US)
    assert budgets.adaptation("a") == second
    desk.change((TenantConfig(name="a"), TenantConfig(name="b")))
    watch.turn(2 * EVERY_US)
    assert budgets.adaptation("a") == Adaptation()
    assert noted == []


def test_what_a_tenant_says_itself_stays_until_another_is_configured() -> None:
    configured, own = Adaptation("fixed", exit=0), Adaptation("alert")
    server, desk, watch, _ = watched(TenantConfig(name="a", adaptation=configured))
    tell(server, AdaptedTo(10, "a", own))
    watch.turn(EVERY_US)
    assert server.ledger.budgets.adaptation("a") == own
    desk.change((TenantConfig(name="a", adaptation=Adaptation("load")),))
    watch.turn(2 * EVERY_US)
    assert server.ledger.budgets.adaptation("a") == Adaptation("load")


def test_energy_until_a_time_that_has_passed_is_said_and_nothing_is_had_of_it() -> None:
    adaptation = Adaptation("battery", energy_j=10.0)
    late = TenantConfig(name="a", adaptation=adaptation, energy_until=NOW - timedelta(hours=1))
    server, _, _, noted = watched(late)
    assert "has passed; say a later time" in noted[0]
    wait_us, said = server.ledger.budgets.wait_us(10, "a", 1.0)
    assert wait_us > 0
    assert "the time your energy was for is over" in said


def test_energy_until_a_time_is_to_last_until_then() -> None:
    adaptation = Adaptation("battery", energy_j=10.0)
    tenant = TenantConfig(name="a", adaptation=adaptation, energy_until=NOW + timedelta(seconds=100))
    server, _, _, noted = watched(tenant)
    standing = server.ledger.budgets.standing(40_000_000, "a")
    assert (standing.left_j, standing.left_s) == (10.0, 60.0)
    assert noted == []


def test_a_restart_gives_nobody_their_energy_again() -> None:
    adaptation = Adaptation("battery", energy_j=10.0)
    tenant = TenantConfig(name="a", adaptation=adaptation, energy_until=NOW + timedelta(seconds=100))
    counters = Counters()
    for left_j in (10.0, 7.0, 4.0, 1.0):
        server, _, watch, _ = watched(tenant, counters=counters)
        budgets = server.ledger.budgets
        assert budgets.standing(0, "a").left_j == pytest.approx(left_j)
        budgets.spend(1000, "a", 3000.0)
        if left_j == 4.0:
            # What it says for itself meanwhile has nothing to do with it.
            tell(server, AdaptedTo(2000, "a", Adaptation("battery", energy_j=50.0, for_s=5.0)))
            budgets.spend(3000, "a", 8000.0)
        server.ledger.account("a").energy_mj = 3000.0
        kept(counters, server)
        watch.close()
        counters = Counters(counters.encoded())
    # It has had 12 J by now: there is nothing left.
    assert (watched(tenant, counters=counters)[0].ledger.budgets.standing(0, "a").left_j or 0) < 1e-6
    later = TenantConfig(name="a", adaptation=adaptation, energy_until=NOW + timedelta(seconds=200))
    assert watched(later, counters=counters)[0].ledger.budgets.standing(0, "a").left_j == 10.0


def test_a_clock_that_jumps_moves_the_time_until_and_gives_nothing_again() -> None:
    tenant = TenantConfig(
        name="a", adaptation=Adaptation("battery", energy_j=10.0), energy_until=NOW + timedelta(seconds=100)
    )
    wall_s, server = [0.0], Server(Limits())
    desk = Desk(server, [tenant], Limits(), "boot")
    config = Config(tenants=(tenant,), meter="none")
    watch = EnergyWatch(config, (server, desk, Counters()), lambda _said: None, lambda: wall_s[0], 0)
    budgets = server.ledger.budgets
    assert (budgets.standing(0, "a").left_s or 0) > 1e9
    budgets.spend(10, "a", 3000.0)
    wall_s[0] = NOW.timestamp()
    watch.turn(EVERY_US)
    standing = budgets.standing(EVERY_US, "a")
    assert standing.left_j == pytest.approx(7.0)
    assert standing.left_s == pytest.approx(100.0)
    # What it says for itself is for so long from then on, whatever the time of day.
    tell(server, AdaptedTo(EVERY_US, "a", Adaptation("battery", energy_j=5.0, for_s=50.0)))
    wall_s[0] += 3600
    watch.turn(2 * EVERY_US)
    assert budgets.standing(2 * EVERY_US, "a").left_s == pytest.approx(49.0)


def kept(counters: Counters, server: Server) -> None:
    """As every second."""
    counters.add(server.ledger.accounts)
    for tenant, budget in server.ledger.budgets.lasting():
        counters.set_budget(tenant, budget)
