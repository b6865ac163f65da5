"""`delen simulate` and `delen bench scenarios` as somebody at a terminal uses them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from delen.clients import cli, tables
from delen.clients.command_simulate import in_order, plan_of, task_of
from delen.daemon.scenario import load_scenario

SCENARIO = """
name = "tiny"
title = "Two tenants"
reason = "For tests."
duration_s = 0.3
seeds = 2
groups = { both = ["a", "b"] }
policies = [{ name = "stage-edf" }, { name = "fixed-exit", label = "fixed", options = { exit = 0 } }]

[[networks]]
name = "net"
latency_ms = [1.0, 3.0]
accuracy = [0.6, 0.8]

[[streams]]
tenant = "a"
network = "net"
rate = 100
asks = [{ latency_ms = 20 }]

[[streams]]
tenant = "b"
network = "net"
rate = 50

[[cases]]
name = "L"
loads = [1, 2]

[[cases]]
name = "recorded"
arrivals = { kind = "trace", trace = "nab", file = "counts.csv" }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO, "utf-8")
    return str(path)


def run(*arguments: str) -> Result:
    tables.out.cache_clear()
    tables.err.cache_clear()
    return CliRunner().invoke(cli.delen, list(arguments), prog_name="delen")


def document(*arguments: str) -> Any:
    result = run("simulate", *arguments, "--processes", "1", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_table_says_what_came_of_each_case_and_policy(scenario: str) -> None:
    result = run("simulate", scenario, "--processes", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny: Two tenants"
    assert "violations %" in lines[1]
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == ["L=1", "L=2"]
    assert "2 seeds" in result.stderr
    assert "recorded is not run" in result.stderr
    assert "--data DIR" in result.stderr


def test_json_has_intervals_every_seed_and_the_command_that_makes_it_again(scenario: str) -> None:
    said = document(scenario, "--seeds", "3", "--seed-first", "5", "--policy", "fixed", "--check", "off")
    assert [run["seed"] for run in said["results"][0]["runs"]] == [5, 6, 7]
    assert [(result["case"], result["policy"]) for result in said["results"]] == [("L=1", "fixed"), ("L=2", "fixed")]
    assert said["results"][0]["violations_pct"]["n"] == 3
    assert said["skipped"][0]["case"] == "recorded"
    again = document(*shlex.split(said["command"])[2:-2])
    assert [result["log_hash"] for result in again["results"]] == [result["log_hash"] for result in said["results"]]


def test_cases_loads_and_options_can_be_chosen(scenario: str) -> None:
    said = document(scenario, "--case", "L=2", "--seeds", "1")
    assert [result["case"] for result in said["results"]] == ["L=2", "L=2"]
    said = document(
        scenario, "--case", "L", "--load", "3", "--seeds", "1", "--policy", "stage-edf", "--set", "fill=false"
    )
    (result,) = said["results"]
    assert (result["case"], result["load"], result["policy"]) == ("L=3", 3.0, "stage-edf, fill=False")
    assert result["options"] == {"fill": False}


def test_a_policy_the_scenario_does_not_list_may_be_tried(scenario: str) -> None:
    said = document(scenario, "--case", "L=1", "--seeds", "1", "--policy", "latency-first")
    assert [result["policy"] for result in said["results"]] == ["latency-first"]


def test_tenants_are_shown_when_asked_for(scenario: str) -> None:
    said = document(scenario, "--case", "L=1", "--seeds", "1", "--per-tenant")
    assert list(said["results"][0]["tenants"]) == ["both", "a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ((), "name a scenario, or --list them", 2),
        (("e99",), "no scenario 'e99'; there are", 66),
        (("e2", "--case", "nope"), "e2 has no case 'nope'; it has L, noisy L=200", 2),
        (("e2", "--policy", "nope"), "no policy 'nope'", 2),
        (("e2", "--set", "fill"), "expected key=value", 2),
        (("e2", "--duration-s", "0.5"), "run it longer", 2),
        (("e2", "--set", "speed=1", "--seeds", "1", "--duration-s", "2", "--processes", "1"), "its options are", 65),
        (("e5", "--case", "azure code"), "plays a recorded trace", 66),
    ],
)
def test_what_cannot_be_done_is_said_with_its_code(arguments: tuple[str, ...], said: str, code: int) -> None:
    result = run("simulate", *arguments)
    assert said in result.stderr
    assert result.exit_code == code


def test_the_list_has_every_committed_scenario_with_its_title() -> None:
    result = run("simulate", "--list")
    assert result.exit_code == 0
    for name in ("e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9", "e10", "e11"):
        assert any(line.startswith(f"{name} ") for line in result.stdout.splitlines())
    listed = json.loads(run("simulate", "--list", "--json").stdout)["scenarios"]
    assert all(entry["reason"] and entry["cases"] and entry["policies"] for entry in listed)
    assert [entry["name"] for entry in listed if entry["name"][1:].isdigit()] == [f"e{n}" for n in range(1, 12)]


def test_names_are_ordered_as_people_count() -> None:
    assert in_order(["e10", "e2-b", "e1", "e2", "a", "e1-x"]) == ["a", "e1", "e1-x", "e2", "e2-b", "e10"]


def test_one_seed_has_no_interval_and_that_is_said(scenario: str) -> None:
    result = run("simulate", scenario, "--processes", "1", "--seeds", "1", "--case", "L=1")
    assert "one seed, so how far chance moves these figures is not known" in result.stderr
    assert "±" not in result.output
    said = document(scenario, "--seeds", "1", "--case", "L=1", "--per-tenant")["results"][0]
    assert said["violations_pct"]["n"] == 1
    assert said["violations_pct"]["half"] is None
    assert said["tenants"]["a"]["violations_pct"]["half"] is None
    assert document(scenario, "--seeds", "2", "--case", "L=1")["results"][0]["p50_ms"]["half"] is not None


def test_what_takes_its_time_says_how_much_there_is(scenario: str) -> None:
    plan = plan_of(load_scenario(scenario), loads=(4.0,), cases=("L",), seeds=3)
    assert task_of(plan) == "tiny: 6 runs of up to about 180 requests"


def test_a_fixed_exit_that_no_network_has_is_refused_with_the_range(scenario: str) -> None:
    result = run("simulate", scenario, "--policy", "fixed", "--set", "exit=9", "--processes", "1")
    assert result.exit_code == 65
    assert "policy fixed-exit: exit is 9; expected 0 to 1" in result.stderr


@pytest.mark.slow
def test_the_bench_writes_a_page_and_a_plot_for_each_scenario(scenario: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    result = run("bench", "scenarios", "--only", scenario, "--seeds", "1", "--processes", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["tiny.md", "tiny.png"]
    page = (out / "tiny.md").read_text("utf-8")
    assert "`delen bench scenarios --only" in page
    assert "not run: recorded" in page
