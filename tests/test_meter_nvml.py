"""NVML's counter, or its power where there is no counter; what it does not support is no meter, and no crash."""

# ruff: noqa: N802 - the calls have the names that the package gives them.

from __future__ import annotations

from typing import Any

import pytest

from delen.profiles.meter_nvml import Nvml, NvmlSensor
from delen.profiles.power_sensor import Reading


class NvmlFault(Exception):
    """What the package raises."""


class Card:
    """The module `pynvml` with one card. Each of `faults` names a call that fails."""

    NVMLError: type[Exception] = NvmlFault

    def __init__(self, *faults: str) -> None:
        self.faults = set(faults)
        self.open = 0

    def nvmlInit(self) -> None:
        self._call("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        self._call("nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:
        return b"Card"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        self._call("nvmlDeviceGetTotalEnergyConsumption")
        return 123_456

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        self._call("nvmlDeviceGetPowerUsage")
        return 61_000

    def _call(self, name: str) -> None:
        if name in self.faults:
            raise NvmlFault(f"{name}: Not Supported")


def test_a_card_with_a_counter() -> None:
    card = Card()
    typed: Nvml = card
    sensor = NvmlSensor(nvml=typed)
    assert (sensor.counts, sensor.name, sensor.covers) == (True, "NVML Card", "the graphics card alone")
    assert sensor.read() == Reading(123_456, (123_456,))
    # A counter that stands would say that nothing is drawn.
    assert sensor.frozen_s <= 1
    sensor.close()
    assert card.open == 0


def test_a_card_without_one_says_its_power() -> None:
    sensor = NvmlSensor(nvml=Card("nvmlDeviceGetTotalEnergyConsumption"))
    assert not sensor.counts
    assert sensor.read() == Reading(61_000, (61_000,))


def test_a_board_where_nvml_supports_neither_has_no_such_meter() -> None:
    card = Card("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    with pytest.raises(LookupError, match="Not Supported"):
        NvmlSensor(nvml=card)
    assert card.open == 0, "it is let go of"


def test_a_driver_that_is_not_there_says_what_to_look_at() -> None:
    with pytest.raises(LookupError, match="driver loaded"):
        NvmlSensor(nvml=Card("nvmlInit"))


def test_a_card_that_falls_off_the_bus_is_missing() -> None:
    card = Card()
    sensor = NvmlSensor(nvml=card)
    card.faults.add("nvmlDeviceGetTotalEnergyConsumption")
    assert sensor.read() is None
