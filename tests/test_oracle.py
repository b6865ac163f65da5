"""The oracle is exact where everything can be tried, its plans are plans, and its bound is one."""

from __future__ import annotations

import random
from itertools import combinations

import msgspec
import numpy as np
import pytest

from delen.policies import oracle_bound
from delen.policies.oracle import solve
from delen.policies.oracle_bound import Job, best_use, relaxation
from delen.policies.oracle_instances import (
    LOADS,
    SEED,
    Asked,
    Instance,
    Network,
    Optimum,
    Solved,
    Step,
    draw,
    draw_all,
    dump,
    load_instances,
)
from delen.profiles.costs import Costs
from delen.tests.sample_profile import sample_profile

SHIPPED = load_instances()


def network(*segments_us: int, accuracy: tuple[float, ...], alpha: float = 0.5, head_us: int = 0) -> Network:
    """A further row costs 1 - alpha of the first; batches to 4."""
    curve = [0.0, *(alpha + (1 - alpha) * batch for batch in range(1, 5))]
    rows = tuple(tuple(int(us * factor) for factor in curve) for us in segments_us)
    return Network(rows, tuple((0, *(head_us,) * 4) for _ in segments_us), accuracy)


def instance(networks: tuple[Network, ...], *requests: tuple[int, int, int]) -> Instance:
    return Instance(1.0, networks, tuple(Asked(*asked) for asked in requests))


def small(seed: int) -> Instance:
    """Three requests of networks with up to three exits, or four with two; tight deadlines."""
    chance = random.Random(seed)
    count, exits = chance.choice([(3, 3), (4, 2)])
    networks = tuple(
        network(
            *(chance.randint(20, 100) for _ in range(exits)),
            accuracy=tuple(round(chance.uniform(0.3, 0.95), 2) for _ in range(exits)),
            alpha=chance.choice([0.1, 0.5, 0.9]),
        )
        for _ in range(chance.randint(1, 2))
    )
    arrivals = [chance.randint(0, 150) for _ in range(count)]
    return instance(
        networks, *((chance.randrange(len(networks)), at, at + chance.choice([60, 150, 400])) for at in arrivals)
    )


def best_of_all(problem: Instance) -> float:
    """Every order of every run of whatever rows, late ones too, each as soon as it can start."""
    requests, networks = problem.requests, problem.networks

    def worth(free_us: int, stages: list[int], held: list[float]) -> float:
        best = sum(held)
        for rows in range(1, len(requests) + 1):
            for members in combinations(range(len(requests)), rows):
                alike = {(requests[index].network, stages[index]) for index in members}
                ((n, stage),) = alike if len(alike) == 1 else ((0, len(networks[0].accuracy)),)
                if stage == len(networks[n].accuracy) or rows >= len(networks[n].segments_us[0]):
                    continue
                start_us = max(free_us, *(requests[index].arrival_us for index in members))
                end_us = start_us + networks[n].segments_us[stage][rows]
                then, got = stages[:], held[:]
                for index in members:
                    then[index] += 1
                    if end_us <= requests[index].deadline_us:
                        got[index] = max(got[index], networks[n].accuracy[stage])
                if got != held or end_us < max(asked.deadline_us for asked in requests):
                    best = max(best, worth(end_us, then, got))
        return best

    return worth(0, [0] * len(requests), [0.0] * len(requests))


def replayed(problem: Instance, plan: tuple[Step, ...]) -> float:
    """What a plan is worth on a device that keeps to the model; a plan that cannot be carried out fails the test."""
    free_us, stages = 0, [0] * len(problem.requests)
    held = [0.0] * len(problem.requests)
    for step in plan:
        assert step.start_us >= free_us, "two runs at once"
        (n,) = {problem.requests[index].network for index in step.members}
        free_us = step.start_us + problem.networks[n].segments_us[step.segment][len(step.members)]
        for index in step.members:
            assert stages[index] == step.segment, "a segment left out or run twice"
            assert problem.requests[index].arrival_us <= step.start_us, "run before it came"
            stages[index] += 1
            if free_us <= problem.requests[index].deadline_us:
                held[index] = max(held[index], problem.networks[n].accuracy[step.segment])
    return sum(held)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_can_be_tried_is_better(seed: int) -> None:
    problem = small(seed)
    optimum = solve(problem)
    assert optimum.status == "optimal"
    assert optimum.accuracy_sum == pytest.approx(best_of_all(problem))
    assert replayed(problem, optimum.plan) == pytest.approx(optimum.accuracy_sum)
    assert relaxation(problem.requests, problem.networks) >= optimum.accuracy_sum - 1e-9


def test_idles_for_a_fuller_batch_when_that_is_best() -> None:
    # Alone the first would hold the device until 100, and the second, due at 130, would be late.
    net = network(100, accuracy=(0.9,), alpha=1.0)
    optimum = solve(instance((net,), (0, 0, 200), (0, 20, 130)))
    assert optimum.accuracy_sum == pytest.approx(1.8)
    assert optimum.plan == (Step(20, 0, (0, 1)),)


def test_batches_form_anew_at_exits() -> None:
    # Rows of the first segment cost as much together as apart, those of the second nothing more: one run for both.
    net = Network(((0, 100, 200), (0, 100, 100)), ((0, 0, 0),) * 2, (0.5, 0.9))
    optimum = solve(instance((net,), (0, 0, 300), (0, 100, 300)))
    assert optimum.accuracy_sum == pytest.approx(1.8)
    assert optimum.plan == (Step(0, 0, (0,)), Step(100, 0, (1,)), Step(200, 1, (0, 1)))


def test_leaves_at_an_exit_what_would_make_another_late() -> None:
    net = network(100, 100, accuracy=(0.6, 0.7), alpha=0.0)
    optimum = solve(instance((net,), (0, 0, 210), (0, 100, 210)))
    assert optimum.accuracy_sum == pytest.approx(1.2)


def test_a_request_that_cannot_be_in_time_counts_nothing() -> None:
    net = network(100, accuracy=(0.9,))
    problem = instance((net,), (0, 0, 99), (0, 500, 500))
    assert solve(problem) == Optimum(0.0, 0.0, "optimal", ())
    assert relaxation(problem.requests, problem.networks) == 0.0


def test_a_search_cut_short_says_so_and_still_bounds() -> None:
    problem, optimum = next(pair for pair in SHIPPED if solve(pair[0], widths=(1,)).status == "bound")
    cut = solve(problem, widths=(1,))
    assert cut.accuracy_sum <= optimum.accuracy_sum + 1e-9
    assert optimum.accuracy_sum <= cut.upper + 1e-9
    assert replayed(problem, cut.plan) == pytest.approx(cut.accuracy_sum)


def test_more_segments_than_a_code_holds_are_refused() -> None:
    net = network(*[10] * 8, accuracy=(0.5,) * 8)
    with pytest.raises(ValueError, match="more than 7 segments"):
        solve(instance((net,), (0, 0, 100)))


def test_a_larger_batch_never_takes_less() -> None:
    with pytest.raises(ValueError, match="takes less time"):
        Network(((0, 20, 10),), ((0, 0, 0),), (0.9,))


def test_a_profile_is_read_as_never_dearer_than_it_is() -> None:
    costs = Costs.of(sample_profile(segments_us=(100.7, 200.2, 400.0)), 8)
    made = Network.of(costs)
    assert made.accuracy == tuple(costs.accuracy)
    assert [row[1] for row in made.segments_us] == [100, 200, 400]
    assert [row[8] for row in made.heads_us] == [int(row[8]) for row in costs.head_us]


@pytest.mark.parametrize("seed", range(60))
def test_device_time_is_used_as_far_as_any_subset_allows(seed: int) -> None:
    """Hall's condition: least, over what is left out, of what that wants and of the time the others' windows cover."""
    chance = random.Random(seed)
    jobs = [
        (release, release + chance.randint(1, 12), chance.randint(1, 10))
        for release in (chance.randint(0, 20) for _ in range(chance.randint(1, 6)))
    ]
    least = min(
        sum(wanted for index, (_, _, wanted) in enumerate(jobs) if index not in inside)
        + len({us for index in inside for us in range(*jobs[index][:2])})
        for size in range(len(jobs) + 1)
        for inside in combinations(range(len(jobs)), size)
    )
    used = best_use(sorted(Job(release, deadline, ((1.0, float(wanted)),)) for release, deadline, wanted in jobs))
    assert used == pytest.approx(least)


def test_device_time_goes_to_what_gains_most_by_it() -> None:
    jobs = [Job(0, 10, ((0.5, 8.0), (0.1, 8.0))), Job(0, 10, ((0.3, 4.0),)), Job(8, 10, ((0.4, 4.0),))]
    # 8 us at 0.5 before 8, and 2 at 0.4 from there; nothing is left for the others.
    assert best_use(jobs) == pytest.approx(8 * 0.5 + 2 * 0.4)


def test_the_bound_knows_who_can_share_a_run() -> None:
    net = network(100, accuracy=(0.9,), alpha=1.0)
    together = relaxation([Asked(0, 0, 100), Asked(0, 0, 100)], [net])
    apart = relaxation([Asked(0, 0, 100), Asked(1, 0, 100)], [net, net])
    assert [together, apart] == pytest.approx([1.8, 0.9])


def test_a_deeper_exit_that_is_cheaper_and_no_worse_counts() -> None:
    # The first head alone takes longer than the way on to the second.
    net = Network(((0, 50), (0, 10)), ((0, 40), (0, 5)), (0.9, 0.9))
    assert relaxation([Asked(0, 0, 90), Asked(0, 40, 130)], [net]) == pytest.approx(1.8)


def test_the_bound_charges_heads() -> None:
    asked = [Asked(0, 0, 100)]
    assert relaxation(asked, [network(80, accuracy=(0.9,), head_us=20)]) == pytest.approx(0.9)
    assert relaxation(asked, [network(80, accuracy=(0.9,), head_us=21)]) == 0.0


def test_telling_fewer_windows_apart_only_allows_more(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    nets = [network(300, 500, 900, accuracy=(0.6, 0.75, 0.8)), network(200, 400, accuracy=(0.5, 0.7))]
    asked = [Asked(chance.randrange(2), at, at + chance.randint(300, 6_000)) for at in range(0, 20_000, 250)]
    exact = relaxation(asked, nets)
    for kinds in (1, 4, 16):
        monkeypatch.setattr(oracle_bound, "KINDS_MAX", kinds)
        assert relaxation(asked, nets) >= exact - 1e-9
    assert exact < sum(max(nets[one.network].accuracy) for one in asked)


def test_shipped_instances_are_what_they_say() -> None:
    assert [problem for problem, _ in SHIPPED] == draw_all(np.random.default_rng(SEED))
    for load, count in LOADS:
        assert sum(problem.load == load for problem, _ in SHIPPED) == count
    for problem, _ in SHIPPED:
        assert 6 <= len(problem.requests) <= 10
        assert {asked.deadline_us - asked.arrival_us for asked in problem.requests} <= {15_000, 50_000, 200_000}
        assert all(len(net.accuracy) in (3, 4) for net in problem.networks)


def test_shipped_plans_reach_their_optimum_and_the_bound_holds() -> None:
    for problem, optimum in SHIPPED:
        assert optimum.status == "optimal"
        assert replayed(problem, optimum.plan) == pytest.approx(optimum.accuracy_sum)
        bound = relaxation(problem.requests, problem.networks)
        assert optimum.accuracy_sum <= bound + 1e-9
        assert bound <= sum(max(problem.networks[asked.network].accuracy) for asked in problem.requests) + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("index", range(0, 200, 10))
def test_shipped_optima_are_found_again(index: int) -> None:
    problem, optimum = SHIPPED[index]
    assert solve(problem) == optimum


def test_the_same_seed_draws_the_same_and_files_read_back() -> None:
    problem = draw(1.0, np.random.default_rng(5))
    assert problem == draw(1.0, np.random.default_rng(5))
    assert problem != draw(1.0, np.random.default_rng(6))
    line = dump([(problem, Optimum(0.0, 0.0, "bound", ()))])
    assert msgspec.json.decode(line, type=Solved).instance == problem
