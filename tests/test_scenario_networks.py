"""Networks of scenarios: published figures become the costs they stand for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from delen.daemon.noise import NoiseSpec
from delen.daemon.scenario import DIRECTORY
from delen.daemon.scenario_networks import Network, Plan, networks_of
from delen.policies.view import Served

NETWORK = Network(name="net", latency_ms=(10.0, 25.0), accuracy=(0.6, 0.8), batch_max=10)
PLAN = Plan("static-p95", 0, 0.0, 1.0, 100.0, NoiseSpec())


def made(network: Network, plan: Plan = PLAN) -> Served:
    (served,), _ = networks_of([network], plan, Path())
    return served


def test_published_latencies_and_a_batching_curve_become_costs() -> None:
    costs = made(msgspec.structs.replace(NETWORK, batch=5, fixed=0.4, per_row=0.12)).costs
    assert costs.path_us(0, 0, 5) == pytest.approx(10_000)
    assert costs.path_us(0, 1, 10) == pytest.approx(1.6 * 25_000)
    assert costs.path_us(1, 1, 1) == pytest.approx(0.52 * 15_000)
    assert costs.energy_mj(1, 1) is None


def test_alpha_is_the_fixed_part_of_a_batch_of_one() -> None:
    costs = made(msgspec.structs.replace(NETWORK, alpha=0.2)).costs
    assert costs.path_us(0, 1, 1) == pytest.approx(25_000)
    assert costs.path_us(0, 1, 4) == pytest.approx(25_000 * (0.2 + 0.8 * 4))


def test_heads_and_energies_count_where_they_are_given() -> None:
    network = msgspec.structs.replace(NETWORK, head_ms=(1.0, 2.0), energy_mj=(30.0, 90.0), head_mj=(3.0, 4.0))
    costs = made(network).costs
    assert costs.path_us(0, 1, 1) == pytest.approx(27_000)
    assert costs.energy_mj(0, 1) == pytest.approx(33)
    assert costs.energy_mj(1, 2) == pytest.approx(2 * 94)


def test_a_profile_believed_shows_the_noise_it_was_taken_in() -> None:
    assert made(NETWORK).correction.factor == pytest.approx(1.0)
    noisy = Plan("static-p95", 0, 0.0, 1.0, 100.0, NoiseSpec(sigma=0.0043))
    assert made(NETWORK, noisy).correction.factor == pytest.approx(1.0071, abs=1e-4)
    assert made(msgspec.structs.replace(NETWORK, p95_over_p50=1.5), noisy).correction.factor == pytest.approx(1.5)


def test_a_profile_file_brings_its_gates_and_how_inputs_behave() -> None:
    network = Network(name="fashion", profile="fashion-profile.json", bundle="fashion")
    (served,), behaviours = networks_of([network], PLAN, DIRECTORY)
    assert served.gates is not None
    assert len(behaviours["fashion"].correct) >= 1000
    (twice,), _ = networks_of([msgspec.structs.replace(network, slower=2.0)], PLAN, DIRECTORY)
    assert twice.costs.path_us(0, 3, 1) == pytest.approx(2 * served.costs.path_us(0, 3, 1))
    (curved,), _ = networks_of([msgspec.structs.replace(network, alpha=0.8)], PLAN, DIRECTORY)
    assert curved.costs.path_us(0, 3, 1) == pytest.approx(served.costs.path_us(0, 3, 1))
    assert curved.costs.path_us(0, 3, 16) == pytest.approx(served.costs.path_us(0, 3, 1) * (0.8 + 0.2 * 16))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"accuracy": (0.6,)}, "2 latencies, 1 accuracies"),
        ({"head_ms": (1.0,)}, "figures of heads"),
        ({"latency_ms": (25.0, 10.0)}, "expected rising, above 0"),
        ({"slower": 0.0}, "slower is 0"),
        ({"p95_over_p50": 0.9}, "p95_over_p50 0.9"),
        ({"profile": "x.json"}, "name its bundle too"),
    ],
)
def test_figures_that_do_not_fit_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(msgspec.structs.replace(NETWORK, **wrong))
