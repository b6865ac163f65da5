"""Metrics: Prometheus can read every page, names and labels are those promised, and labels cannot explode."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from delen.clients.gateway_metrics import METRICS, OTHER, Board, Metric, metrics_page
from delen.clients.info import EDGES_US, Drift, Histogram, NetworkStats, TenantStats
from delen.clients.wire import StatsReply
from delen.tests.fake_client import STATS

KINDS = {metric.name: metric for metric in METRICS}
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.e+-]+|[+-]Inf|NaN)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
DASHBOARD = Path(__file__).parents[1] / "clients" / "grafana.json"
TALLY = Histogram((*range(len(EDGES_US)), 5), 1_500_000)
FULL = replace(
    STATS.tenants[0],
    undeliverable=3,
    beyond=2,
    optional_us=10_000,
    refusals={"rate": 4},
    failures={"deadline": 1},
    broken={"latency_ms": 2},
    latency={"digits": TALLY},
    queue={"digits": TALLY},
    drift={"digits": Drift(True, 10, 3, 1, 0, 0)},
)
NETWORK = NetworkStats("digits", "1", (TALLY, TALLY), (5, 0, 2), 1.5)
FULL_STATS = replace(STATS, spare="ready", tenants=(FULL, STATS.tenants[1]), networks=(NETWORK,))


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def read(page: str) -> list[Sample]:
    """A strict reader of the text format: metadata before values, one group per metric, no sample twice."""
    assert page.endswith("\n")
    found: list[Sample] = []
    told: set[str] = set()
    current = ""
    lines = page[:-1].split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            assert current not in told
            told.add(current)
            assert following.split(" ")[:4] == ["#", "TYPE", current, KINDS[current].kind]
        elif not line.startswith("# TYPE "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, inside, value = match.groups()
            labels = LABEL.findall(inside or "")
            assert ",".join(f'{key}="{text}"' for key, text in labels) == (inside or ""), line
            assert len(dict(labels)) == len(labels)
            ends = ("_bucket", "_sum", "_count") if KINDS[current].kind == "histogram" else ("",)
            assert name in [current + end for end in ends], line
            found.append(Sample(name, dict(labels), float(value)))
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in found]
    assert len(keys) == len(set(keys)), "a sample is told twice"
    return found


def page_of(stats: StatsReply | None, **more: Any) -> dict[str, list[Sample]]:
    by_name: dict[str, list[Sample]] = {}
    for sample in read(metrics_page(stats, version="1.2", **more)):
        by_name.setdefault(sample.name, []).append(sample)
    return by_name


def one(samples: list[Sample], **labels: str) -> float:
    (found,) = [sample for sample in samples if labels.items() <= sample.labels.items()]
    return found.value


def test_every_metric_can_be_read_with_the_labels_it_says() -> None:
    board = Board({"VDD_IN": 4.5}, 51.5)
    page = page_of(FULL_STATS, board=board)
    for metric in METRICS:
        names = [f"{metric.name}_count"] if metric.kind == "histogram" else [metric.name]
        for sample in (sample for name in names for sample in page[name]):
            assert tuple(sample.labels) == metric.labels
    assert one(page["delen_up"]) == 1
    assert one(page["delen_power_watts"], rail="VDD_IN") == 4.5
    assert one(page["delen_requests_total"], tenant="a", outcome="answered", model="digits") == 10
    assert one(page["delen_requests_total"], tenant="a", outcome="failed") == 1
    assert one(page["delen_exit_total"], tenant="a", exit="1") == 6
    assert one(page["delen_tenant_energy_joules_total"], tenant="a", source="modelled") == 0.15
    assert one(page["delen_bound_violations_total"], bound="latency_ms") == 2
    assert one(page["delen_certificate_withdrawn"], tenant="a") == 1


def test_unknown_energy_is_not_told_as_nothing() -> None:
    page = page_of(replace(STATS, tenants=(replace(STATS.tenants[0], energy_mj=None, energy_source="unknown"),)))
    assert "delen_tenant_energy_joules_total" not in page
    assert "delen_energy_joules_total" not in page


def test_histograms_add_up_and_rise_to_infinity() -> None:
    page = page_of(FULL_STATS)
    for name in ("delen_request_duration_seconds", "delen_execute_duration_seconds", "delen_batch_size"):
        first = {key: value for key, value in page[f"{name}_bucket"][0].labels.items() if key != "le"}
        buckets = [sample for sample in page[f"{name}_bucket"] if first.items() <= sample.labels.items()]
        edges = [float(sample.labels["le"]) for sample in buckets]
        values = [sample.value for sample in buckets]
        assert edges == sorted(edges)
        assert edges[-1] == float("inf")
        assert values == sorted(values)
        assert values[-1] == one(page[f"{name}_count"], **first)
    assert one(page["delen_request_duration_seconds_sum"]) == 1.5
    assert one(page["delen_batch_size_sum"]) == 5 + 3 * 2
    assert one(page["delen_batch_size_bucket"], le="2") == 5
    assert one(page["delen_batch_size_bucket"], le="4") == 7


@pytest.mark.parametrize(("value", "told"), [(math.inf, math.inf), (-math.inf, -math.inf), (math.nan, math.nan)])
def test_what_is_no_number_spoils_no_page(value: float, told: float) -> None:
    (slow,) = page_of(replace(STATS, networks=(replace(NETWORK, slowdown=value),)))["delen_slowdown_ratio"]
    assert slow.value == told or math.isnan(told) == math.isnan(slow.value) is True


def test_a_daemon_that_is_away_is_told_as_down() -> None:
    assert set(page_of(None)) == {"delen_up", "delen_build_info"}
    assert one(page_of(None)["delen_up"]) == 0


def test_tenants_beyond_the_limit_share_a_label() -> None:
    rows = tuple(replace(FULL, tenant=f"t{index}") for index in range(200))
    page = page_of(replace(FULL_STATS, tenants=rows), tenants_max=10)
    assert {sample.labels["tenant"] for sample in page["delen_queue_depth"]} == {OTHER, *(f"t{i}" for i in range(10))}
    assert one(page["delen_undeliverable_total"], tenant=OTHER) == 190 * 3
    assert one(page["delen_request_duration_seconds_count"], tenant=OTHER) == 190 * sum(TALLY.counts)
    assert sum(len(samples) for samples in page.values()) < 2_000


@given(name=st.text(st.characters(codec="utf-8"), min_size=1), code=st.text(st.characters(codec="utf-8"), min_size=1))
def test_no_name_can_break_a_page(name: str, code: str) -> None:
    row = TenantStats(name, 1, 1, 0, 0, 0, 1, 0, 1.0, "modelled", 1, 1, 1, {name: (1,)}, refusals={code: 1})
    page = page_of(replace(STATS, tenants=(row,)))
    label = page["delen_queue_depth"][0].labels["tenant"]
    assert re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], label) == name


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"delen_[a-z_]+[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not {"le", "id", "request"} & set(metric.labels)


# ---- the dashboard


def queries() -> list[str]:
    document = json.loads(DASHBOARD.read_text("utf-8"))
    found = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    return found + [variable["query"] for variable in document["templating"]["list"] if variable["type"] == "query"]


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are() -> None:
    names = {metric.name: set(metric.labels) for metric in METRICS}
    for metric in METRICS:
        if metric.kind == "histogram":
            labels = set(metric.labels)
            names |= {f"{metric.name}_bucket": labels | {"le"}} | {
                f"{metric.name}_{end}": labels for end in ("sum", "count")
            }
            del names[metric.name]
    assert queries()
    for query in queries():
        found = re.findall(r"(delen_\w+)(?:\{(.*?)\})?", query)
        assert found, query
        labels = set.intersection(*(names[name] for name, _ in found))
        for name, inside in found:
            assert {pair[0] for pair in re.findall(r"(\w+)(=~|=)", inside)} <= names[name], query
        for by in re.findall(r"by \((.*?)\)", query):
            assert set(by.split(", ")) <= labels, query


def test_the_dashboard_shows_everything_that_may_go_wrong() -> None:
    text = " ".join(queries())
    missing = [metric.name for metric in METRICS if metric.name not in text]
    assert set(missing) <= {"delen_build_info", "delen_uptime_seconds", "delen_beyond_total"}
