"""Running all of a scenario: here or in other processes the same comes of it; what cannot be run is said."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import msgspec
import pytest

from delen.daemon.scenario import Case, PolicySpec, Scenario, ScenarioError
from delen.daemon.scenario_bench import Done, Job, Plan, run_all, run_one, work
from delen.daemon.scenario_networks import Network
from delen.daemon.scenario_requests import Arrivals, Ask, Stream

SCENARIO = Scenario(
    name="tiny",
    title="Two tenants",
    reason="For tests.",
    duration_s=0.3,
    networks=(Network(name="net", latency_ms=(1.0, 3.0), accuracy=(0.6, 0.8)),),
    streams=(
        Stream(tenant="a", network="net", rate=100, asks=(Ask(latency_ms=20),)),
        Stream(tenant="b", network="net", rate=50, asks=(Ask(latency_ms=50),)),
    ),
    groups={"both": ("a", "b")},
    cases=(Case(name="one"), Case(name="two", load=2.0)),
    policies=(PolicySpec(name="stage-edf"), PolicySpec(name="fixed-exit", label="fixed", options={"exit": 0})),
)
PLAN = Plan(scenario=SCENARIO, seeds=(0, 1))


def test_every_case_and_policy_has_a_result_over_all_seeds() -> None:
    seen: list[tuple[int, int]] = []
    found = run_all(PLAN, 1, lambda done, total: seen.append((done, total)))
    assert [(result.case, result.policy) for result in found.results] == [
        ("one", "stage-edf"),
        ("one", "fixed"),
        ("two", "stage-edf"),
        ("two", "fixed"),
    ]
    assert [run.seed for run in found.results[0].runs] == [0, 1]
    assert seen == [(done, 8) for done in range(1, 9)]
    assert found.requests == sum(run.requests for result in found.results for run in result.runs) > 100


def test_groups_are_reported_always_and_tenants_when_asked_for() -> None:
    alone = run_one(PLAN, Job(0, 0, 0))
    assert alone.run is not None
    assert set(alone.tenants) == {"both"}
    each = run_one(msgspec.structs.replace(PLAN, per_tenant=True), Job(0, 0, 0)).tenants
    assert set(each) == {"both", "a", "b"}
    assert each["a"].requests + each["b"].requests == each["both"].requests == alone.run.requests


@pytest.mark.slow
def test_other_processes_do_exactly_the_same() -> None:
    here, there = run_all(PLAN, 1), run_all(PLAN, 2)
    assert here.results == there.results


def test_a_worker_answers_a_line_for_each_job() -> None:
    lines = [msgspec.json.encode(item) for item in (PLAN, Job(0, 0, 0), Job(1, 1, 1))]
    answers = io.BytesIO()
    work(io.BytesIO(b"\n".join(lines) + b"\n"), answers)
    done = [msgspec.json.decode(line, type=Done) for line in answers.getvalue().splitlines()]
    assert [each.job for each in done] == [Job(0, 0, 0), Job(1, 1, 1)]
    assert [each.run for each in done] == [run_one(PLAN, each.job).run for each in done]


@pytest.mark.slow
def test_a_worker_that_dies_names_the_run_and_how_to_see_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ScenarioError, match=r"tiny, one, .*delen simulate tiny --case 'one' .*--seed-first 0"):
        run_all(PLAN, 2)


def test_a_scenario_that_cannot_be_run_says_why() -> None:
    wrong = msgspec.structs.replace(SCENARIO, policies=(PolicySpec(name="stage-edf", options={"speed": 1}),))
    with pytest.raises(ScenarioError, match="speed"):
        run_all(msgspec.structs.replace(PLAN, scenario=wrong), 1)


def test_cases_that_need_traces_are_left_out_by_name(tmp_path: Path) -> None:
    trace = Case(name="recorded", arrivals=Arrivals(kind="trace", trace="nab", file="counts.csv"))
    plan = Plan(scenario=msgspec.structs.replace(SCENARIO, cases=(SCENARIO.cases[0], trace)), seeds=(0,))
    found = run_all(plan, 1)
    assert [result.case for result in found.results] == ["one", "one"]
    assert [(skipped.case, "--data" in skipped.reason) for skipped in found.skipped] == [("recorded", True)]
    (tmp_path / "counts.csv").write_text(
        "timestamp,value\n" + "".join(f"2014-04-10 00:{5 * n:02d}:00,{9 + n % 3}\n" for n in range(12)), "utf-8"
    )
    assert len(run_all(msgspec.structs.replace(plan, data=str(tmp_path)), 1).results) == 4
