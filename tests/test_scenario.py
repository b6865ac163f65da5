"""Scenario files: what they may say, what is refused and how, and what becomes of one run of them."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from delen.daemon.scenario import (
    Case,
    PolicySpec,
    Scenario,
    ScenarioError,
    load_scenario,
    needs_data,
    prepare,
    requests,
    scenario_names,
)
from delen.daemon.scenario_requests import Arrivals

SMALL = """
name = "small"
title = "A small one"
reason = "For tests."
duration_s = 0.5

[[networks]]
name = "net"
latency_ms = [1.0, 2.0]
accuracy = [0.6, 0.8]

[[streams]]
tenant = "a"
network = "net"
rate = 100
asks = [{ latency_ms = 50 }]

[[streams]]
tenant = "b"
network = "net"
rate = 50
"""

NETWORK = '[[networks]]\nname = "net"\nlatency_ms = [1.0]\n'
OTHER = NETWORK.replace('net"', 'other"')
STREAM = '[[streams]]\ntenant = "c"\nnetwork = "net"\n'
BURST = 'arrivals = { kind = "burst", burst = 4, start_s = %s, end_s = %s }'
# Where the published traces lie; without them the cases that play one are left out.
DATA = os.environ.get("DELEN_DATA", "")


def load(folder: Path, text: str = SMALL, name: str = "small") -> Scenario:
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return load_scenario(str(path))


@pytest.mark.parametrize("name", scenario_names())
def test_every_committed_scenario_loads_says_why_and_can_be_run(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert len(scenario.reason.split()) > 20
    short = msgspec.structs.replace(scenario, duration_s=0.05, warmup_s=0.0)
    runnable = next(case for case in short.cases if not needs_data(short, case))
    for policy in short.policies:
        prepare(short, runnable, policy, 0)


@pytest.mark.parametrize("name", scenario_names())
def test_every_case_of_every_committed_scenario_makes_its_requests(name: str) -> None:
    scenario = load_scenario(name)
    for case in scenario.cases:
        if needs_data(scenario, case) and not DATA:
            continue
        sent = requests(scenario, case, 0, data=Path(DATA))
        assert len(sent) > 100, case.name
        assert sent[-1][0] < scenario.duration_s * 1e6
        burst = case.arrivals
        if burst is not None and burst.kind == "burst":
            assert scenario.warmup_s <= burst.start_s < burst.end_s < scenario.duration_s, case.name
            within = sum(burst.start_s <= when_us / 1e6 < burst.end_s for when_us, _, _ in sent)
            length_s = burst.end_s - burst.start_s
            outside_hz = (len(sent) - within) / (scenario.duration_s - length_s)
            assert within / length_s == pytest.approx(burst.burst * outside_hz, rel=0.15), case.name


def test_a_policy_a_scenario_names_must_be_there_with_those_options(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    with pytest.raises(ScenarioError, match="expected one of"):
        prepare(scenario, scenario.cases[0], PolicySpec(name="nobody's"), 0)
    with pytest.raises(ScenarioError, match="spare_share"):
        prepare(scenario, scenario.cases[0], PolicySpec(name="stage-edf", options={"speed": 9}), 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('colour = "red"', "colour"),
        ("warmup_s = 1", "warmup_s is 1.0"),
        ('[[cases]]\nname = "x"\n[[cases]]\nname = "x"', "named twice"),
        ('[[cases]]\nname = "x"\nnetworks.other = { fixed = 1 }', "changes network 'other'; there are net"),
        ('[[cases]]\nname = "x"\nrates = { c = 2 }', "names tenant 'c'; there are a, b"),
        ('[[cases]]\nname = "x"\narrivals = { kind = "trace" }', "need `trace`, the kind of file, and `file`"),
        ('[[streams]]\ntenant = "c"\nnetwork = "other"', "asks network 'other'; there are net"),
        ('[[streams]]\ntenant = "c"\nnetwork = "net"\nasks = []', "shares of its asks"),
        ('[[streams]]\ntenant = "c"\nnetwork = "net"\narrivals = { kind = "mmpp" }', "need `rates`"),
        ('[groups]\nothers = ["z"]', "group others names tenant 'z'"),
        ("cases = []", "cases is empty; expected at least one"),
        ("policies = []", "policies is empty; expected at least one"),
        ("seeds = 0", "seeds is 0; expected 1 or more"),
        ("queued_max = 0", "queued_max is 0; expected 1 or more"),
        ("hop_us = -500", "hop_us is -500; expected 0 or more"),
        ("ahead_us = -500", "ahead_us is -500; expected 0 or more"),
        ("guard_us = -1", "guard_us is -1; expected 0 or more"),
        ("guard_share = 1.0", "guard_share is 1.0; expected 0 or more and below 1"),
        ('[[policies]]\nname = "nobody\'s"', "expected one of"),
        ('[[policies]]\nname = "stage-edf"\ncorrection = "zzz"', "no correction is called 'zzz'"),
        ('[[policies]]\nname = "stage-edf"\noptions = { spare_share = nan }', "spare_share is nan; expected 0 to 1"),
        (f"{NETWORK}accuracy = [0.6]", "networks: 'net' is named twice"),
        (f"{OTHER}accuracy = [1.5]", "network other: accuracy is (1.5,)"),
        (f"{OTHER}accuracy = [0.0]", "network other: accuracy is (0.0,)"),
        (f"{OTHER}accuracy = [0.6]\nalpha = 1.5", "network other: alpha is 1.5; expected a share, 0 to 1"),
        (f"{OTHER}accuracy = [0.6]\nfixed = -1.0", "network other: fixed is -1.0"),
        (f"{OTHER}accuracy = [0.6]\nper_row = nan", "network other: per_row is nan"),
        (f"{OTHER}accuracy = [0.6]\nfixed = 0\nper_row = 0", "batches cost nothing"),
        (f"{OTHER}accuracy = [0.6]\nbatch_max = 0", "network other: batch_max is 0; expected 1 or more"),
        (f"{OTHER}accuracy = [0.6]\nhead_ms = [-1.0]", "network other: head_ms is (-1.0,)"),
        (f"{OTHER}accuracy = [0.6]\nslower = inf", "network other: slower is inf"),
        ('[[cases]]\nname = "x"\nnetworks.net = { alpha = -0.1 }', "case x: network net: alpha is -0.1"),
        ('[[cases]]\nname = "x"\nnetworks.net = { colour = 1 }', "case x: networks: Object contains unknown field"),
        ('[[cases]]\nname = "x"\nload = nan', "case x: load is nan; expected 0 or more"),
        ('[[cases]]\nname = "x"\nloads = [1, -1]', "case x: loads is (1.0, -1.0)"),
        ('[[cases]]\nname = "x"\nrates = { a = -2 }', "case x: rates.a is -2.0"),
        (
            f"{STREAM}asks = [{{ latency_ms = -5 }}]",
            "tenant c: asks: latency_ms is -5.0; expected a finite",
        ),
        (f"{STREAM}asks = [{{ latency_ms = 0 }}]", "tenant c: asks: latency_ms is 0.0"),
        (f"{STREAM}asks = [{{ accuracy = 2.0 }}]", "tenant c: asks: accuracy is 2.0"),
        (f"{STREAM}rate = nan", "tenant c: rate is nan"),
        (f"{STREAM}{BURST % (0.2, 0.2)}", "tenant c: a burst from 0.2 to 0.2 s"),
        (f"{STREAM}{BURST % (-0.1, 0.2)}", "tenant c: a burst from -0.1 to 0.2 s"),
        ('[[cases]]\nname = "x"\n' + BURST % (0.4, 0.6), "case x: a burst from 0.4 to 0.6 s; expected 0 <= start_s"),
    ],
)
def test_what_cannot_be_right_is_named(tmp_path: Path, wrong: str, said: str) -> None:
    text = f"{wrong}\n{SMALL}" if not wrong.startswith("[") else f"{SMALL}\n{wrong}\n"
    with pytest.raises(ScenarioError, match=r"small\.toml") as failure:
        load(tmp_path, text)
    assert said in str(failure.value)


def test_a_file_that_is_not_there_or_not_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'e99'; there are .*e1"):
        load_scenario("e99")
    with pytest.raises(ScenarioError, match="is not TOML"):
        load(tmp_path, "a = = b")


def test_a_scenario_takes_from_its_base_what_it_does_not_say(tmp_path: Path) -> None:
    load(tmp_path)
    scenario = load(tmp_path, 'base = "small"\nname = "next"\nduration_s = 2', "next")
    assert (scenario.name, scenario.duration_s, scenario.title) == ("next", 2, "A small one")
    assert [stream.tenant for stream in scenario.streams] == ["a", "b"]


def test_bases_that_go_round_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('base = "two"', "utf-8")
    (tmp_path / "two.toml").write_text('base = "one"', "utf-8")
    with pytest.raises(ScenarioError, match="circle: one, two, one"):
        load_scenario(str(tmp_path / "one.toml"))


def test_loads_become_a_case_each_on_one_curve(tmp_path: Path) -> None:
    scenario = load(tmp_path, SMALL + '\n[[cases]]\nname = "L"\nloads = [1, 2.5]\n[[cases]]\nname = "alone"\n')
    assert [(case.name, case.curve, case.load) for case in scenario.cases] == [
        ("L=1", "L", 1.0),
        ("L=2.5", "L", 2.5),
        ("alone", "", 1.0),
    ]


def test_every_policy_meets_the_same_requests(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    runs = []
    for name in ("stage-edf", "fixed-exit"):
        simulation = prepare(scenario, scenario.cases[0], PolicySpec(name=name), 7)
        runs.append(sorted((outcome.sent_us, outcome.tenant, outcome.bounds) for outcome in simulation.run()))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 20


def test_another_seed_is_another_day_and_the_same_seed_the_same(tmp_path: Path) -> None:
    scenario = load(tmp_path)

    def log(seed: int) -> str:
        simulation = prepare(scenario, scenario.cases[0], scenario.policies[0], seed)
        simulation.run()
        return simulation.log_hash

    assert log(1) == log(1) != log(2)


def test_a_case_changes_load_rates_and_arrivals_of_whom_it_names(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    quiet = requests(scenario, Case(name="quiet"), 3)
    flood = requests(scenario, Case(name="flood", rates={"b": 50}), 3)
    assert [r for r in flood if r[1].tenant == "a"] == [r for r in quiet if r[1].tenant == "a"]
    assert sum(r[1].tenant == "b" for r in flood) > 40 * sum(r[1].tenant == "b" for r in quiet) > 0
    even = Arrivals(kind="periodic")
    cameras = requests(scenario, Case(name="cameras", arrivals=even, tenants=("b",)), 3)
    times_us = [when_us for when_us, stream, _ in cameras if stream.tenant == "b"]
    assert {late - early for early, late in pairwise(times_us)} <= {19_999, 20_000, 20_001}
    assert [r for r in cameras if r[1].tenant == "a"] == [r for r in quiet if r[1].tenant == "a"]


def test_a_slower_case_is_in_the_profile_too(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    simulation = prepare(scenario, Case(name="x", slower=3.0), scenario.policies[0], 0)
    assert simulation.server.networks["net"].costs.path_us(0, 1, 1) == pytest.approx(6000)


def test_a_trace_needs_the_directory_it_lies_in(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    trace = Case(name="x", arrivals=Arrivals(kind="trace", trace="nab", file="counts.csv"), tenants=("a",))
    assert needs_data(scenario, trace)
    assert not needs_data(scenario, scenario.cases[0])
    with pytest.raises(ScenarioError, match=r"x, tenant a: needs the trace counts.csv; .* --data DIR"):
        requests(scenario, trace, 0)
    with pytest.raises(ScenarioError, match=r"counts\.csv"):
        requests(scenario, trace, 0, data=tmp_path)
