"""How close a policy comes to the best that could have been done: on small problems exactly, on long traces to a bound.

Role: `bench_oracle` runs the 200 committed instances, with their optima, on the real core; `bench_relaxation` a
scenario's cases against `oracle_bound.relaxation`. The device is noise-free and its hop is nothing, as the oracle's is.
Does not: solve anything exactly (`policies/oracle.py` did, once).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..clients.bounds import Bounds
from ..clients.wire import Answer
from ..policies.correction_rivals import correction
from ..policies.oracle_bound import relaxation
from ..policies.oracle_instances import Asked, Instance, Network, load_instances
from ..policies.policy import make_policy
from ..policies.view import Guard, Served
from ..profiles.assumed import assumed_cost, assumed_profile
from ..profiles.costs import Costs
from .noise import NoiseSpec
from .outcomes import Interval, interval
from .scenario import Case, PolicySpec, Scenario, prepare
from .simulate import Simulation

EXACT, NO_GUARD = NoiseSpec(), Guard(0, 0.0, 1.0)


class OracleScore(msgspec.Struct, frozen=True, kw_only=True):
    """A policy on problems of one load: its accuracy over the best possible, per problem; `optimal_pct` are proven."""

    policy: str
    load: float
    problems: int
    optimal_pct: float
    of_optimum: Interval
    worst: float


class BoundScore(msgspec.Struct, frozen=True, kw_only=True):
    """A policy on a long trace: effective accuracy, percent, and what no policy could exceed."""

    scenario: str
    case: str
    policy: str
    effective_accuracy: Interval
    bound: Interval
    of_bound: Interval


def bench_oracle(policies: Sequence[str]) -> list[OracleScore]:
    """One row per policy and load."""
    problems = load_instances()
    loads = sorted({instance.load for instance, _ in problems})
    rows = []
    for policy in policies:
        for load in loads:
            of = [(i, best) for i, best in problems if i.load == load]
            shares = [_accuracy_sum(instance, policy) / best.accuracy_sum for instance, best in of]
            found = interval(shares)
            assert found is not None
            rows.append(
                OracleScore(
                    policy=policy,
                    load=load,
                    problems=len(of),
                    optimal_pct=100 * sum(best.status == "optimal" for _, best in of) / len(of),
                    of_optimum=found,
                    worst=min(shares),
                )
            )
    return rows


def bench_relaxation(scenario: Scenario, case: Case, policy: PolicySpec, seeds: int) -> BoundScore:
    """One policy on one case; requests must have latency bounds and nothing else."""
    reached, bounds = [], []
    for seed in range(seeds):
        simulation = prepare(scenario, case, policy, seed, check=False)
        outcomes, networks = simulation.run(), simulation.server.networks
        names = list(networks)
        asked = [Asked(names.index(o.network), o.sent_us, o.sent_us + _limit_us(o.bounds)) for o in outcomes]
        asked.sort(key=lambda one: one.arrival_us)
        best = relaxation(asked, [Network.of(networks[name].costs) for name in names])
        met = [o for o in outcomes if isinstance(o.reply, Answer) and not o.reply.broken]
        total = sum(networks[o.network].costs.accuracy[o.reply.exit] for o in met if isinstance(o.reply, Answer))
        reached.append(100 * total / len(outcomes))
        bounds.append(100 * best / len(outcomes))
    found = [interval(values) for values in (reached, bounds, [r / b for r, b in zip(reached, bounds, strict=True)])]
    assert found[0] is not None
    assert found[1] is not None
    assert found[2] is not None
    return BoundScore(
        scenario=scenario.name,
        case=case.name,
        policy=policy.title,
        effective_accuracy=found[0],
        bound=found[1],
        of_bound=found[2],
    )


def _accuracy_sum(instance: Instance, policy: str) -> float:
    served = [_served(str(index), network) for index, network in enumerate(instance.networks)]
    simulation = Simulation(served, policy=make_policy(policy), noise=EXACT)
    for asked in instance.requests:
        bounds = Bounds(latency_ms=(asked.deadline_us - asked.arrival_us) / 1000)
        simulation.ask(asked.arrival_us, "a", bounds, str(asked.network))
    met = [(o.network, o.reply) for o in simulation.run() if isinstance(o.reply, Answer) and not o.reply.broken]
    return sum(instance.networks[int(network)].accuracy[answer.exit] for network, answer in met)


def _served(name: str, network: Network) -> Served:
    rows = [[assumed_cost(us) for us in row[1:]] for row in network.segments_us]
    heads = [[assumed_cost(us) for us in row[1:]] for row in network.heads_us]
    batch_max = len(rows[0])
    profile = assumed_profile(name, range(1, batch_max + 1), rows, heads, network.accuracy)
    exact = correction("static-p50")
    return Served(name, "1", Costs.of(profile, batch_max), None, batch_max, 0.0, correction=exact, guard=NO_GUARD)


def _limit_us(bounds: Bounds) -> int:
    limit_ms = bounds.latency_ms
    if not isinstance(limit_ms, int | float):
        raise ValueError("the bound holds for requests with a latency bound only; this scenario has others")
    return int(limit_ms * 1000)
