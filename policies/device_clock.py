"""The clock of the device's GPU as the core knows it: which steps there are, which it has, and since when.

Role: what a policy that picks clocks looks at (`View.clock`), and what follows every run posted. A run only wishes a
clock: it is in force once whoever sets it says so. It also keeps how much of the device is in use, counted as if it
ran at its highest clock. Does not: set a clock (the driver does), or pick one (`clock.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Over which time use is counted: some dozens of requests of a busy stream, and short beside an hour of the day.
USE_US = 2_000_000.0


@dataclass(slots=True)
class DeviceClock:
    """`steps_khz`: rising. `now_khz`: in force as far as is known, since `since_us`. `wished_khz`: what a run wished,
    and nobody has confirmed; 0: nothing. `switch_us`: for how long a change of clock keeps the device from work.
    `dwell_us`: how long a clock is kept before a lower one may save energy; higher ones wait for nobody.
    """

    steps_khz: tuple[int, ...]
    now_khz: int
    switch_us: int = 0
    dwell_us: int = 0
    since_us: int = 0
    switches: int = 0
    wished_khz: int = 0
    _work_us: float = 0.0
    _seen_us: int = 0

    def begin(self, khz: int, now_us: int, top_us: float) -> None:
        """A run at this clock (0: as it is) is posted now; at the highest clock it would take `top_us`."""
        if khz and khz != self.next_khz:
            self.wished_khz = khz
        self._work_us = self._work(now_us) + top_us
        self._seen_us = now_us

    def confirm(self, khz: int, now_us: int) -> None:
        """This clock is in force from now on."""
        if khz != self.now_khz:
            self.now_khz, self.since_us = khz, now_us
            self.switches += 1
        if khz == self.wished_khz:
            self.wished_khz = 0

    @property
    def next_khz(self) -> int:
        """What a run posted now would find if all goes well."""
        return self.wished_khz or self.now_khz

    def switch_to_us(self, khz: int) -> int:
        """What a run at this clock waits for it: nothing where it is in force and no other is under way."""
        return 0 if khz == self.now_khz and not self.wished_khz else self.switch_us

    def dwells(self, now_us: int) -> bool:
        """Whether a lower clock has to wait."""
        return self.wished_khz > 0 or now_us - self.since_us < self.dwell_us

    def use(self, now_us: int) -> float:
        """The share of the highest clock's time that was asked for of late, as an average that fades."""
        return self._work(now_us) / USE_US

    def _work(self, now_us: int) -> float:
        return self._work_us and self._work_us * math.exp((self._seen_us - now_us) / USE_US)
