"""A simulated device that some inputs kill.

Role: `Deadly` is a `Simulation` whose worker dies at the first exit of a run with such an input in it, as one would
that an engine's fault takes down; `Deadly.poison` does the same to one made elsewhere, and `stand_by` gives one a
spare. Does not: check anything.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

from delen.clients.bounds import Bounds
from delen.daemon.behaviour import payload_of
from delen.daemon.simulate import Simulation
from delen.policies.view import Row, Run


class Deadly(Simulation):
    """`deadly`: the inputs that do it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.deadly: set[bytes] = set()
        self.deaths = 0

    def again(self, when_us: int, tenant: str, request_id: bytes) -> None:
        """Another request with the same input."""
        self.at(when_us, self._submit, b"%d-%b" % (self._seq, request_id[-4:]), tenant, Bounds(), "net")

    def _at_exit(self, run: Run, index: int, rows: list[Row], steps: Any, generation: int) -> object:
        if generation == self._generation and any(self._input(row) in self.deadly for row in rows):
            self.deaths += 1
            self._lose()
            return None
        return super()._at_exit(run, index, rows, steps, generation)

    def _input(self, row: Row) -> bytes:
        known = self._by_ticket.get(row.ticket)
        return b"" if known is None else payload_of(known.id)

    @staticmethod
    def poison(simulation: Simulation, share: float) -> Counter[tuple[str, str, bytes]]:
        """Make so many of all inputs deadly; counts the deaths in which each ran alone."""
        found: Counter[tuple[str, str, bytes]] = Counter()
        as_before = simulation._at_exit

        def at_exit(run: Run, index: int, rows: list[Row], steps: Any, generation: int) -> object:
            if generation != simulation._generation:
                return as_before(run, index, rows, steps, generation)
            known = [was for row in rows if (was := simulation._by_ticket.get(row.ticket)) is not None]
            bad = [was for was in known if payload_of(was.id)[-1] < 256 * share]
            if not bad:
                return as_before(run, index, rows, steps, generation)
            if len(rows) == 1:
                found[bad[0].tenant, bad[0].network, payload_of(bad[0].id)] += 1
            _hear(simulation)
            simulation._lose()
            return None

        simulation._at_exit = at_exit  # type: ignore[method-assign]
        return found


def _hear(simulation: Simulation) -> None:
    """What a worker has said before it dies is in the pipe, and read before its end is seen."""
    said = sorted(event for event in simulation._heap if event[2] == simulation._advance)
    for event in said:
        simulation._heap.remove(event)
    heapq.heapify(simulation._heap)
    for _, _, tell, arguments in said:
        tell(*arguments)


def stand_by(simulation: Simulation, load_us: int) -> list[int]:
    """Keep a spare, loaded so long after the one before it took over or a worker got ready; returns how long each death
    kept the device away, filled in as they happen.
    """
    server, keys, away_us = simulation.server, tuple(simulation.server.networks), list[int]()
    warm, cold_us = True, simulation._restart_us
    server.spare(keys, warm=True)

    def loaded(generation: int) -> None:
        nonlocal warm
        if generation == simulation._generation:
            warm = True
            server.spare(keys, warm=True)

    def lose() -> None:
        nonlocal warm
        simulation._generation += 1
        if simulation._watch is not None:
            simulation._watch.lost()
        simulation._running = simulation._posted = None
        now_us, wait_us = simulation.now_us, 0 if warm else cold_us
        warm = False
        away_us.append(wait_us)
        server.spare(keys, warm=False)
        simulation._take(server.worker_lost(now_us, now_us + wait_us))
        simulation.at(now_us + wait_us, simulation._back, simulation._generation)
        simulation.at(now_us + wait_us + load_us, loaded, simulation._generation)

    simulation._lose = lose  # type: ignore[method-assign]
    return away_us
