"""Options of policies: figures no rule can work with are refused where they are read, not at the first decision."""

from __future__ import annotations

import math

import pytest

from delen.policies.policy import PolicyError, make_policy, policy_names


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_takes_its_own_defaults(name: str) -> None:
    assert make_policy(name).name == name


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("slackfit", "buckets", 0, "1 to 10000"),
        ("slackfit", "buckets", 10**9, "1 to 10000"),
        ("slackfit", "batch_max", 0, "1 or more"),
        ("edgeserving", "batch_max", 0, "1 or more"),
        ("edgeserving", "clip", 0.0, "more than 0"),
        ("edgeserving", "clip", math.nan, "more than 0"),
        ("edgeserving", "slo_ms", 0.0, "0.001 to 3600000"),
        ("edgeserving", "slo_ms", math.inf, "0.001 to 3600000"),
        ("clockwork", "batch_max", 0, "1 or more"),
        ("clockwork", "exit", -1, "0 or more"),
        ("fixed-exit", "batch_max", -1, "1 or more"),
        ("fixed-exit", "exit", -1, "0 or more"),
        ("fixed-exit", "queue_delay_ms", -5.0, "0 to 3600000"),
        ("fixed-exit", "queue_delay_ms", math.inf, "0 to 3600000"),
        ("stage-edf", "spare_share", -1.0, "0 to 1"),
        ("stage-edf", "spare_share", 1.01, "0 to 1"),
        ("stage-edf", "spare_share", math.nan, "0 to 1"),
        ("latency-first", "delay_price", -0.1, "0 or more"),
        ("latency-first", "delay_price", math.nan, "0 or more"),
    ],
)
def test_an_option_no_rule_can_work_with_is_refused_where_it_is_read(
    name: str, option: str, value: float, expected: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        make_policy(name, {option: value})
    assert f"policy {name}: {option} is {value}; expected {expected}" in str(refused.value)


def test_an_exit_of_one_network_is_named_with_it() -> None:
    with pytest.raises(PolicyError, match=r"exits\.net is -1; expected 0 or more"):
        make_policy("clockwork", {"exits": {"net": -1}})
