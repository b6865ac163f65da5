"""NVML: what an NVIDIA graphics card draws, through NVIDIA's own `nvidia-ml-py`.

Role: a counter of millijoules where the card has one (since Volta), else power. It is the card alone, without the
machine around it. On Jetson boards NVML has neither and says so; their own sensors are in `meter_ina3221.py`.

Does not: need the package: without it, or without a driver, there is no such sensor.
"""

# ruff: noqa: N802 - the calls have the names that the package gives them.

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

from .power_sensor import Reading

# The driver averages over 25 to 100 ms by generation; the counter moves every 20 to 100 ms.
SAMPLE_S = 0.05


class Nvml(Protocol):
    """What is used of the module `pynvml`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...


class NvmlSensor:
    """One card's energy counter, or its power."""

    sample_s = SAMPLE_S
    # Twenty steps of the counter, or of the average.
    window_s_min = 1.0
    power_mw_max = 2_000_000.0

    def __init__(self, index: int = 0, nvml: Nvml | None = None) -> None:
        """Raises LookupError: no package, driver or card, or the card has no meter."""
        self._nvml = _module() if nvml is None else nvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise LookupError(f"NVML does not start: {error}; is NVIDIA's driver loaded?") from error
        try:
            self._card = self._nvml.nvmlDeviceGetHandleByIndex(index)
            name = self._nvml.nvmlDeviceGetName(self._card)
            self.counts = self._has_counter()
            if not self.counts:
                self._nvml.nvmlDeviceGetPowerUsage(self._card)
        except self._nvml.NVMLError as error:
            self.close()
            raise LookupError(f"NVML says nothing of card {index}: {error}") from error
        # A counter that stands says that nothing is drawn; an average may stay for a while.
        self.frozen_s = 1.0 if self.counts else 10.0
        self.name = f"NVML {name.decode() if isinstance(name, bytes) else name}"
        self.covers = "the graphics card alone"

    def read(self) -> Reading | None:
        try:
            if self.counts:
                said = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._card)
            else:
                said = self._nvml.nvmlDeviceGetPowerUsage(self._card)
        except self._nvml.NVMLError:
            return None
        return Reading(float(said), (said,))

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _has_counter(self) -> bool:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._card)
        except self._nvml.NVMLError:
            return False
        return True


def _module() -> Nvml:
    """The package, where it is installed."""
    try:
        import pynvml
    except ImportError as error:
        raise LookupError("NVML needs nvidia-ml-py: pip install 'delen[nvml]'") from error
    module: Nvml = pynvml
    return module
