"""Without a meter that reads nothing is called measured, and energy bounds are refused where the operator says so."""

from __future__ import annotations

import msgspec
import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.info import MeterInfo
from delen.clients.wire import VERSION, Infer, TensorSpec
from delen.daemon.metering import Metering
from delen.policies.exits import Asked, asked

INFER = Infer(VERSION, b"1", "net", (TensorSpec("float32", (1,)),), Bounds())
READING = MeterInfo("reading", "measured", "INA3221", 5000.0, 1)


def with_conditions(metric: str) -> Asked:
    test = msgspec.convert({"metric": metric, "operator": "less", "threshold": 5.0}, Condition)
    return asked(Bounds(conditions=(None, ConditionSet(any_of=(test,)))))


def test_bounds_on_energy_are_refused_only_while_nothing_reads_and_only_if_configured() -> None:
    metering = Metering()
    assert metering.refusal(INFER, asked(Bounds(energy_mj=5.0))) is None, "the model keeps it"
    metering.refuses = True
    refusal = metering.refusal(INFER, asked(Bounds(energy_mj=5.0)))
    assert refusal is not None
    assert refusal.code == "energy_unknown"
    assert "no power meter" in refusal.message
    assert metering.refusal(INFER, asked(Bounds(latency_ms=5.0))) is None
    metering.tell(READING)
    assert metering.refusal(INFER, asked(Bounds(energy_mj=5.0))) is None
    metering.tell(MeterInfo("frozen"))
    refusal = metering.refusal(INFER, asked(Bounds(energy_mj=5.0)))
    assert refusal is not None
    assert "is frozen" in refusal.message


def test_conditions_on_energy_are_bounds_on_it() -> None:
    metering = Metering()
    metering.refuses = True
    assert metering.refusal(INFER, with_conditions("energy")) is not None
    assert metering.refusal(INFER, with_conditions("confidence")) is None


@pytest.mark.parametrize("state", ["none", "missing", "frozen", "absurd", "slow", "backwards"])
def test_what_a_profile_measured_is_a_model_while_no_meter_reads(state: str) -> None:
    metering = Metering()
    metering.tell(READING)
    assert metering.source("measured") == "measured"
    metering.tell(msgspec.convert({"state": state}, MeterInfo))
    assert metering.source("measured") == "modelled"
    assert metering.source("modelled") == "modelled"
    assert metering.source("unknown") == "unknown"
