"""What was charged by profile becomes what was measured: a second at a time, once the meter's samples have come.

Role: beside the loop, some hundred microseconds five times a second and never a wait. Flow: `Sampler.track` ->
`Attribution.learn`, `settle` -> `Ledger.settle_energy`; and where steps turn out to take other energies than they are
known with, the core is told (`budget_events.tell`), so that admission, prices and charges follow.

An answer therefore carries what is known when it is given, and the ledger what was measured, a second or two later.
Does not: read sensors (`sampler.py`), or share anything out itself.
"""

from __future__ import annotations

from collections.abc import Callable

from ..policies.attribution import Attribution, readings
from ..profiles.power_track import PowerTrack
from .budget_events import tell
from .journal_records import Corrected, Recosted
from .server import Server

STRETCH_US, LOOK_US = 1_000_000, 200_000
# Samples closer together than this are of a sensor that averages for so long (an INA3221, by its driver's default);
# others are means of the time between them.
FINE_US, AVERAGE_US = 50_000, 5_000
# So much time is put together to learn from: twenty times a second is enough, and costs a thousandth of a core.
LEARN_US = 50_000
# Steps are known with other energies once these are so much off, and when enough was seen.
OFF_SHARE, READINGS_MIN = 0.03, 200
# Samples that have not come by then do not come.
WAIT_US = 5_000_000
# Behind by more than this, the machine has slept: what has been is settled at once, not by the second.
BEHIND_US = 60_000_000


class Settling:
    """Follows the meter's track; `reads`: whether it is believed just now."""

    def __init__(self, server: Server, track: PowerTrack, reads: Callable[[], bool], now_us: int) -> None:
        self._server = server
        self._track = track
        self._reads = reads
        self._from_us = self._learnt_us = now_us
        self._looked_us = now_us - LOOK_US

    def turn(self, now_us: int) -> None:
        """Settle what can be; a microsecond where nothing can."""
        if now_us < self._looked_us + LOOK_US:
            return
        self._looked_us = now_us
        ledger = self._server.ledger
        if ledger.attribution is None:
            if self._reads():
                ledger.attribution, self._from_us = Attribution(), now_us
                self._learnt_us = now_us
            return
        last_us = self._track.last_us or 0
        self._learn(ledger.attribution, last_us)
        lag_us = self._average_us() // 2
        # Runs report at their exits, so what has just been is not all known yet.
        while self._from_us + 2 * STRETCH_US <= now_us:
            behind_us = now_us - WAIT_US - self._from_us
            until_us = self._from_us + (behind_us if behind_us > BEHIND_US else STRETCH_US)
            if last_us < until_us + lag_us and now_us < until_us + WAIT_US and self._reads():
                return
            # A device that runs draws something: a counter that says nothing was drawn has stopped.
            energy_mj = self._track.energy_mj(self._from_us + lag_us, until_us + lag_us) or None
            more = ledger.settle_energy(ledger.attribution.settle(self._from_us, until_us, energy_mj))
            if more:
                tell(self._server, Corrected(now_us, tuple(more)))
            self._from_us = until_us
            self._correct(now_us, ledger.attribution)

    def _learn(self, attribution: Attribution, last_us: int) -> None:
        samples = self._track.since(self._learnt_us - 1)
        if len(samples) < 2 or last_us - self._learnt_us < LEARN_US:
            return
        for seen, energy_mj in readings(samples, self._average_us(), LEARN_US):
            if energy_mj > 0:
                attribution.learn(seen, energy_mj)
            self._learnt_us = max(to_us for _, to_us, _ in seen)
        self._learnt_us = max(self._learnt_us, last_us - STRETCH_US)

    def _average_us(self) -> int:
        """Over how long a sample is an average, 0: of all the time since the one before."""
        last = self._track.since(self._learnt_us - STRETCH_US)
        if len(last) < 2:
            return 0
        apart_us = (last[-1][0] - last[0][0]) / (len(last) - 1)
        return AVERAGE_US if AVERAGE_US < apart_us <= FINE_US else 0

    def _correct(self, now_us: int, attribution: Attribution) -> None:
        attribution.keep(self._server.networks)
        if attribution.readings < READINGS_MIN:
            return
        for key, served in list(self._server.networks.items()):
            count = served.costs.exit_count
            # What is taken here is what costs have from now on, and so what is told of them.
            off = tuple(attribution.take_factor((key, index), OFF_SHARE) for index in range(count))
            if all(factor == 1.0 for factor in off):
                continue
            tell(self._server, Recosted(now_us, key, off))
