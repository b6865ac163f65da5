"""How findings are written: numbers with their intervals, one page with the command, one document for programs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from delen.daemon.outcomes import Interval
from delen.daemon.scenario import Case
from delen.daemon.scenario_bench import Findings, Plan, run_all
from delen.daemon.scenario_plot import PlotError, check_plot, draw_findings
from delen.daemon.scenario_report import document, markdown, rows, written
from delen.daemon.scenario_requests import Arrivals
from delen.tests.test_scenario_bench import SCENARIO

CURVE = msgspec.structs.replace(
    SCENARIO,
    cases=(
        Case(name="L=1", curve="L", load=1.0),
        Case(name="L=2", curve="L", load=2.0),
        Case(name="alone"),
        Case(name="recorded", arrivals=Arrivals(kind="trace", trace="nab", file="counts.csv")),
    ),
)
PLAN = Plan(scenario=CURVE, seeds=(0, 1))


@pytest.fixture(scope="module")
def findings() -> Findings:
    return run_all(PLAN, 1)


def test_figures_are_written_with_half_their_interval() -> None:
    assert written("violations_pct", Interval(0.534, 0.041, 20)) == "0.53 ± 0.04"
    assert written("p95_ms", Interval(12.34, 0.0, 1)) == "12.3"
    assert written("energy_mj", None) is None


def test_rows_name_a_case_once_and_put_groups_below_their_policy(findings: Findings) -> None:
    found = rows(findings.results)
    assert [(row["case"], row["policy"]) for row in found[:4]] == [
        ("L=1", "stage-edf"),
        ("", "· both"),
        ("", "fixed"),
        ("", "· both"),
    ]
    assert found[4]["case"] == "L=2"


def test_the_page_has_command_reason_skipped_cases_and_whole_rows(findings: Findings) -> None:
    page = markdown(CURVE, findings, "delen bench scenarios", "tiny.png")
    lines = page.splitlines()
    assert lines[0] == "# tiny: Two tenants"
    assert "For tests." in page
    assert "`delen bench scenarios`: means over 2 seeds" in page
    assert any(line.startswith("- **not run: recorded**") and "--data" in line for line in lines)
    assert "![tiny](tiny.png)" in page
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(rows(findings.results))


def test_the_document_can_be_made_again_from_what_it_says(findings: Findings) -> None:
    said = msgspec.json.decode(msgspec.json.encode(document(PLAN, findings, "delen simulate tiny")))
    assert said["command"] == "delen simulate tiny"
    assert said["seeds"] == [0, 1]
    first = said["results"][0]
    assert set(first["violations_pct"]) == {"mean", "half", "n"}
    assert first["log_hash"] == [run["log_hash"] for run in first["runs"]]
    assert len(set(first["log_hash"])) == 2
    assert set(first["tenants"]) == {"both"}
    assert said["requests_per_s"] > 0


@pytest.mark.slow
def test_a_plot_is_drawn_for_curves_and_single_cases(findings: Findings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "tiny.svg"
    draw_findings(CURVE, findings, path)
    text = path.read_text("utf-8")
    assert text.count("<image") == 0
    assert len(text) > 10_000


@pytest.mark.slow
def test_a_plot_that_cannot_be_made_fails_before_the_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(PlotError, match=r"\.png, \.svg, \.pdf"):
        check_plot(tmp_path / "x.txt")
    with pytest.raises(PlotError, match="cannot write"):
        draw_findings(
            CURVE,
            Findings(results=run_all(PLAN, 1).results[:1], skipped=(), requests=1, run_s=1.0),
            tmp_path / "no" / "x.png",
        )
