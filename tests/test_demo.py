"""The demo's story: bounds and rates that fit the device, and claims that say what was seen, broken ones included."""

from __future__ import annotations

import pytest

from delen.clients.demo import (
    LATENCY_MS_MIN,
    PHASES,
    RATE_HZ_MAX,
    Role,
    cast,
    claims,
    figures,
    sustained_hz,
    utilisation,
)
from delen.clients.info import EnergySource, ExitInfo, NetworkInfo, Preprocessing
from delen.clients.load import Outcome

INPUTS = {"fashion": "fashion.npz", "digits": "digits.npz"}
PHASE_S = 10.0


def network(name: str, last_us: int, *, exits: int = 4, energy: bool = True, dominated: bool = False) -> NetworkInfo:
    """Exits that share `last_us` evenly, accuracies of 0.85 to 0.937; `dominated`: one more, that is worth nothing."""
    source: EnergySource = "modelled" if energy else "unknown"
    infos = [
        ExitInfo(
            index=index,
            accuracy=0.85 + 0.087 * index / (exits - 1),
            latency_p50_us=last_us * (index + 1) // exits,
            latency_p99_us=2 * last_us * (index + 1) // exits,
            energy_mj=10.0 * (index + 1) if energy else None,
            energy_source=source,
            dominated=False,
            gmac=None,
        )
        for index in range(exits)
    ]
    if dominated:
        infos.append(ExitInfo(exits, 0.5, 10 * last_us, 10 * last_us, 900.0 if energy else None, source, True, None))
    return NetworkInfo(
        name=name,
        version="1",
        classes=("a", "b"),
        dtype="float32",
        shape=(1,),
        preprocessing=Preprocessing(),
        exits=tuple(infos),
        batch_max=8,
        engine="replay",
        profile="full",
    )


def networks(last_us: int = 4_000, **more: bool) -> dict[str, NetworkInfo]:
    return {"fashion": network("fashion", last_us, **more), "digits": network("digits", 200, exits=3)}


def by_name(roles: list[Role]) -> dict[str, Role]:
    return {role.name: role for role in roles}


def test_every_kind_of_bound_has_a_tenant_and_both_networks_are_used() -> None:
    roles = by_name(cast(networks(), INPUTS))
    assert {role.network for role in roles.values()} == {"fashion", "digits"}
    assert {tuple(role.bounds) for role in roles.values()} == {("latency_ms",), ("accuracy",), ("energy_mj",), ()}
    assert len({role.seed for role in roles.values()}) == len(roles)
    assert roles["door"].inputs == "digits.npz"


def test_bounds_fit_the_device() -> None:
    assert by_name(cast(networks(4_000), INPUTS))["camera"].bounds["latency_ms"] == 24.0
    assert by_name(cast(networks(1_000), INPUTS))["camera"].bounds["latency_ms"] == LATENCY_MS_MIN
    roles = by_name(cast(networks(), INPUTS))
    assert 0.85 < roles["inspector"].bounds["accuracy"] <= 0.937
    # The second exit fits, the third does not.
    assert 20.0 <= roles["sensor"].bounds["energy_mj"] < 30.0


def test_exits_that_are_never_chosen_set_no_bound_and_no_rate() -> None:
    assert cast(networks(dominated=True), INPUTS) == cast(networks(), INPUTS)
    assert sustained_hz(network("x", 4_000, dominated=True)) == 250.0


def test_where_energies_are_unknown_nobody_asks_for_a_bound_on_them() -> None:
    roles = cast(networks(energy=False), INPUTS)
    assert all("energy_mj" not in role.bounds for role in roles)
    assert len(roles) == 4


@pytest.mark.parametrize("energy", [True, False])
def test_the_burst_offers_at_least_twice_what_the_last_exits_sustain_and_the_rest_less_than_all(energy: bool) -> None:
    known = networks(energy=energy)
    offered = utilisation(cast(known, INPUTS), known)
    assert tuple(offered) == PHASES
    assert offered["burst"] >= 2.0
    assert offered["before"] == offered["after"] < 0.8


def test_a_fast_device_is_asked_for_no_more_than_clients_in_python_can_send() -> None:
    fast = networks(10)
    assert sum(role.rates_hz[1] for role in cast(fast, INPUTS)) == pytest.approx(RATE_HZ_MAX)


def outcome(due_s: float, *, met: bool = True, code: str = "", exit_index: int = 0, correct: bool = True) -> Outcome:
    due_us = int(due_s * 1e6)
    return Outcome(
        query=due_us,
        due_us=due_us,
        sent_us=due_us,
        ended_us=due_us + 5_000,
        code=code,
        refused=code == "infeasible",
        exit=exit_index,
        met=met,
        met_daemon=True,
        correct=correct,
        expected_accuracy=0.9,
        total_us=4_000,
        energy_mj=2.0,
        energy_source="modelled",
    )


def role(**bounds: float) -> Role:
    return Role("t", "fashion", bounds, (1.0, 1.0, 1.0), "x.npz", 0, PHASE_S)


def test_a_request_counts_in_the_phase_it_was_due_in() -> None:
    seen = [outcome(t) for t in (0.0, 9.999, 10.0, 19.999, 20.0, 35.0)]
    told = figures(role(latency_ms=20), seen, exit_count=4)
    assert [told.phases[phase].requests for phase in PHASES] == [2, 2, 2]
    assert told.requests == 6


def test_figures_are_of_answers_and_refusals_are_counted_apart() -> None:
    seen = [
        outcome(1, exit_index=3),
        outcome(11, met=False, exit_index=1, correct=False),
        outcome(12, exit_index=1),
        outcome(13, code="infeasible"),
        outcome(14, code="engine"),
    ]
    told = figures(role(latency_ms=20), seen, exit_count=4)
    assert (told.requests, told.answered, told.refused, told.failed) == (5, 3, 1, 1)
    assert (told.met_pct, told.met_pct_burst, told.met_daemon_pct) == (66.667, 50.0, 100.0)
    assert told.exits == [0, 2, 0, 1]
    assert told.accuracy == pytest.approx(2 / 3)
    assert (told.p50_ms, told.energy_mj) == (5.0, 2.0)


def test_without_bounds_nothing_is_said_to_be_met() -> None:
    told = figures(role(), [outcome(1)], exit_count=4)
    assert (told.met_pct, told.met_pct_burst) == (None, None)
    assert claims([told]) == ([], True)


def test_claims_hold_from_99_percent_on_and_say_so_when_they_do_not() -> None:
    kept = figures(role(latency_ms=20), [outcome(t / 20, met=t != 0) for t in range(600)], exit_count=4)
    said, held = claims([kept])
    assert held
    assert [line.split(":")[0] for line in said] == ["held"] * 3
    assert "0.50 %" in said[0]
    lost = figures(role(latency_ms=20), [outcome(t / 20, met=not 200 <= t < 203) for t in range(600)], exit_count=4)
    said, held = claims([kept, lost])
    assert not held
    [broken] = [line for line in said if line.startswith("BROKEN")]
    assert "1.50 %" in broken
    assert "during the burst" in broken


def test_a_phase_without_answers_claims_nothing() -> None:
    told = figures(role(latency_ms=20), [outcome(1), outcome(11, code="infeasible")], exit_count=4)
    said, held = claims([told])
    assert held
    assert len(said) == 1
