"""Who may use which endpoint: by uid and by key, denied by default, and as of now."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from delen.clients.adaptation import Adaptation
from delen.clients.key_text import key_bytes, key_text
from delen.daemon.rights import (
    PublicKey,
    Rights,
    TenantConfig,
    Verdict,
    domain_of,
    rights_fault,
    rights_notes,
    user_of_key,
    user_of_uid,
)

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
WALL_S = NOW.timestamp()
FIRST, SECOND = (key_text(bytes([value]) * 32) for value in (1, 2))
HOUR = timedelta(hours=1)


def rights(*tenants: TenantConfig, own_uid: int | None = None) -> Rights:
    return Rights(tenants, own_uid=own_uid, wall_s=WALL_S)


def local(made: Rights, tenant: str, uid: int | str) -> Verdict:
    return made.judge(domain_of(tenant, "ipc"), f"localhost:{uid}:100:4711", "NULL", b"")


def remote(made: Rights, tenant: str, public: str) -> Verdict:
    return made.judge(domain_of(tenant, "tcp"), "192.0.2.7", "CURVE", key_bytes(public))


def test_a_uid_is_admitted_where_it_is_named_and_nowhere_else() -> None:
    made = rights(TenantConfig("a", uids=(1001, 1002)), TenantConfig("b", uids=(1003,)))
    assert local(made, "a", 1001).user == user_of_uid(1001)
    assert not local(made, "b", 1001).user
    assert not local(made, "a", 0).user, "not even root, unless it is named"
    assert not local(made, "stranger", 1001).user


def test_nobody_is_admitted_by_default_and_in_development_only_the_own_uid() -> None:
    assert not local(rights(TenantConfig("a")), "a", 1000).user
    made = rights(TenantConfig("a"), own_uid=1000)
    assert local(made, "a", 1000).user
    assert not local(made, "a", 1001).user
    assert not local(made, "a", 0).user


@pytest.mark.parametrize(
    "address", ["", "localhost", "1001", "localhost:x:1:1", "localhost:-1:1:1", "localhost:\u0661:1:1"]
)
def test_an_address_without_the_kernels_word_admits_nobody(address: str) -> None:
    made = rights(TenantConfig("a", uids=(1, 1001)))
    assert not made.judge("ipc/a", address, "NULL", b"").user


def test_each_transport_takes_only_its_own_mechanism() -> None:
    made = rights(TenantConfig("a", uids=(1001,), keys=(PublicKey(FIRST),)))
    raw = key_bytes(FIRST)
    assert made.judge("tcp/a", "192.0.2.7", "CURVE", raw).user == user_of_key(FIRST)
    # A tcp peer cannot claim a uid, a local one no key, and no password is asked for.
    assert not made.judge("tcp/a", "localhost:1001:1:1", "NULL", b"").user
    assert not made.judge("ipc/a", "localhost:1001:1:1", "CURVE", raw).user
    assert not made.judge("tcp/a", "192.0.2.7", "PLAIN", raw).user
    assert not made.judge("tcp/a", "192.0.2.7", "CURVE", raw[:31]).user
    assert not made.judge("a", "localhost:1001:1:1", "NULL", b"").user


def test_a_key_is_valid_from_its_first_to_before_its_last_moment() -> None:
    key = PublicKey(FIRST, not_before=NOW + HOUR, not_after=NOW + 2 * HOUR)
    made = rights(TenantConfig("a", keys=(key, PublicKey(SECOND))))
    user = user_of_key(FIRST)
    for hours, valid in ((0, False), (1, True), (1.99, True), (2, False), (-5, False), (1.5, True)):
        made.refresh(WALL_S + hours * 3600)
        assert bool(remote(made, "a", FIRST).user) is valid, hours
        assert made.allows("a", user) is valid, "an open connection is asked the same"
        assert made.allows("a", user_of_key(SECOND))


def test_what_is_taken_away_is_denied_to_those_already_connected() -> None:
    made = rights(TenantConfig("a", uids=(1001, 1002)), TenantConfig("b", uids=(1001,)))
    before = made.generation
    made.change([TenantConfig("a", uids=(1002,))], WALL_S)
    assert made.generation > before
    assert not made.allows("a", user_of_uid(1001))
    assert made.allows("a", user_of_uid(1002))
    assert not made.allows("b", user_of_uid(1001))
    same = made.generation
    made.refresh(WALL_S + 1)
    assert made.generation == same, "nothing has changed"


def test_nobody_known_is_not_somebody() -> None:
    made = rights(TenantConfig("a", uids=(1001,)))
    assert not made.allows("a", "")
    assert not made.allows("", user_of_uid(1001))


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ([TenantConfig("a", uids=(-1,))], "uids has -1"),
        ([TenantConfig("a", uids=(2**32 - 1,))], "uids"),
        ([TenantConfig("a", keys=(PublicKey("short"),))], "keys[0]: a key has 40"),
        ([TenantConfig("a", keys=(PublicKey(FIRST, not_after=NOW), PublicKey(FIRST)))], "twice; leave one"),
        ([TenantConfig("a", keys=(PublicKey(FIRST, not_before=NOW, not_after=NOW),))], "not_before"),
        ([TenantConfig("a", keys=(PublicKey(FIRST, not_after=datetime(2026, 1, 1)),))], "time zone"),
        (
            [TenantConfig("a", keys=(PublicKey(FIRST),)), TenantConfig("b", keys=(PublicKey(FIRST),))],
            "is 'a''s already",
        ),
        ([TenantConfig("a", tcp_port=5), TenantConfig("b", tcp_port=5)], "tcp_port 5"),
        ([TenantConfig("a", tcp_port=70_000)], "tcp_port"),
        ([TenantConfig("a", deepest_exit={"net": -1})], "deepest_exit"),
        ([TenantConfig("a", payload_bytes_max=0)], "payload_bytes_max"),
        ([TenantConfig("a", connections_max=-3)], "connections_max"),
        ([TenantConfig("../a")], "not a name"),
    ],
)
def test_what_cannot_be_right_is_named_with_its_tenant(tenants: list[TenantConfig], said: str) -> None:
    fault = rights_fault(tenants)
    assert fault is not None
    assert said in fault


def test_no_fault_in_what_is_right() -> None:
    keys = (PublicKey(FIRST, NOW, NOW + HOUR, "note"), PublicKey(SECOND))
    assert rights_fault([TenantConfig("a", uids=(0, 1001), keys=keys, tcp_port=5701), TenantConfig("b")]) is None


def test_an_operator_is_told_loudly_who_may_not_and_who_may() -> None:
    tenants = [TenantConfig("a"), TenantConfig("b", uids=(1,), networks=(), keys=(PublicKey(FIRST),))]
    said = "\n".join(rights_notes(tenants, own_uid=None, tcp=False))
    assert "tenant a has neither uids nor keys" in said
    assert "tenant b may use no network" in said
    assert "tcp in the configuration" in said
    assert rights_notes(tenants, own_uid=1000, tcp=True)[0].startswith("DEVELOPMENT MODE: uid 1000 alone")


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        (TenantConfig(name="a", adaptation=Adaptation("battery", energy_j=-1.0, for_s=1.0)), "energy_j is -1"),
        (TenantConfig(name="a", energy_until=NOW), "energy_until needs adaptation.energy_j beside it"),
        (
            TenantConfig(name="a", adaptation=Adaptation(energy_j=1.0), energy_until=NOW.replace(tzinfo=None)),
            "has no time zone",
        ),
    ],
)
def test_an_adaptation_that_cannot_be_is_said(tenant: TenantConfig, said: str) -> None:
    assert said in (tenant.rights_fault() or "")


def test_energy_until_a_time_is_energy_for_as_long_as_is_left() -> None:
    tenant = TenantConfig(name="a", adaptation=Adaptation("battery", energy_j=1.0), energy_until=NOW + HOUR)
    assert tenant.rights_fault() is None
    assert tenant.adapted(WALL_S).for_s == pytest.approx(3600)
    assert tenant.adaptation_fault(WALL_S) is None
    assert "has passed" in (tenant.adaptation_fault(WALL_S + 3601) or "")
