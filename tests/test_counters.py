"""Totals go on over restarts, and the hours of the last day are given back whatever the clocks have done meanwhile."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.daemon import counters
from delen.daemon.audit_log import Head
from delen.daemon.counters import Counters, CountersDamaged, Totals, from_wall, to_wall
from delen.daemon.keeping import SLOT_BYTES
from delen.daemon.ledger import Account
from delen.policies.energy_caps import HOUR_US, Window

WALL_S = 1_790_000_000.25


def account(tenant: str = "a", *, energy_mj: float = 0.0, device_us: int = 0, answered: int = 0) -> Account:
    return Account(tenant, accepted=answered, answered=answered, energy_mj=energy_mj, device_us=device_us)


def test_totals_go_on_over_restarts() -> None:
    counted = Counters()
    assert counted.add({"a": account(energy_mj=10, device_us=500, answered=2)})
    assert counted.add({"a": account(energy_mj=15, device_us=700, answered=3)})
    again = Counters(counted.encoded())
    assert again.add({"a": account(energy_mj=1, device_us=50, answered=1)})
    assert again.of("a") == Totals("a", 16, 750, accepted=4, answered=4)
    assert again.of("nobody") == Totals("nobody")


def test_what_has_not_changed_need_not_be_written() -> None:
    counted = Counters()
    assert counted.add({"a": account()})
    assert not counted.add({"a": account()})
    assert counted.add({"a": account(device_us=1)})


def test_who_is_served_no_more_is_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "TENANTS_MAX", 3)
    counted = Counters()
    for name in "abcd":
        counted.add({name: account(name, answered=1)})
    counted.add({"b": account("b", answered=2)})
    counted.add({"e": account("e", answered=1)})
    assert [totals.tenant for totals in counters.decoded(counted.encoded()).totals] == ["d", "b", "e"]


@pytest.mark.parametrize("record", [b"{}", b"\xff", b"[1]", b'{"format":2,"totals":[]}', b'{"format":1,"totals":[3]}'])
def test_a_strange_record_is_refused(record: bytes) -> None:
    with pytest.raises(CountersDamaged, match="the kept counters"):
        Counters(record)


def levels_after(kept: list[tuple[int, float]], **clocks: float) -> list[tuple[int, float]]:
    """What a day is after a restart; clocks in hours: `mono`, `wall` at first, `mono_then`, `wall_then` after it."""
    now_us, then_us = (int(clocks[name] * HOUR_US) for name in ("mono", "mono_then"))
    day = to_wall(kept, now_us=now_us, wall_s=WALL_S + clocks["wall"] * 3600)
    return from_wall(day, now_us=then_us, wall_s=WALL_S + clocks["wall_then"] * 3600)


DAY = [(20, 5.0), (3, 2.0), (0, 1.0)]


@given(st.floats(0, 1000), st.floats(0, 30))
def test_a_restart_alone_moves_nothing_however_often(mono: float, hours: float) -> None:
    day, now = DAY, mono
    for _ in range(3):
        day = levels_after(day, mono=now, wall=now - mono, mono_then=now, wall_then=now - mono)
    assert day == DAY
    later = levels_after(day, mono=now, wall=0, mono_then=now + hours, wall_then=hours)
    passed = int((now + hours) * HOUR_US) // HOUR_US - int(now * HOUR_US) // HOUR_US
    assert later == [(ago + passed, amount_mj) for ago, amount_mj in DAY]


def test_a_reboot_moves_an_hour_by_half_of_one_at_most() -> None:
    for minutes in range(0, 120, 7):
        then = minutes / 60
        day = levels_after(DAY, mono=500.4, wall=0, mono_then=then, wall_then=1)
        for (ago, _), (before, _) in zip(day, DAY, strict=True):
            began_hours_ago = then - int(then) + ago
            assert abs(began_hours_ago - (before + 0.4 + 1)) <= 0.51


def test_a_clock_set_back_gives_no_energy_twice_and_one_ahead_lets_it_go() -> None:
    assert levels_after(DAY, mono=500, wall=0, mono_then=1, wall_then=-400_000) == [(0, 5.0), (0, 2.0), (0, 1.0)]
    window = Window()
    window.restore(HOUR_US, levels_after(DAY, mono=500, wall=0, mono_then=1, wall_then=100))
    assert window.total(HOUR_US) == 0
    window.restore(HOUR_US, levels_after(DAY, mono=500, wall=0, mono_then=1, wall_then=1))
    assert window.total(HOUR_US) == 8


def test_the_largest_record_there_can_be_fits_where_it_is_kept() -> None:
    day = tuple((1_700_000_000 + 3600 * hour, 123456.789012345678) for hour in range(25))
    most = 10**15
    one = Totals("x" * 64, 1234567890.123456, most, most, most, most, most, day)
    whole = [one] * counters.TENANTS_MAX
    record = msgspec.json.encode(counters.Record(1, tuple(whole), Head(10**9, "f" * 32)))
    assert len(record) < SLOT_BYTES - 4096
