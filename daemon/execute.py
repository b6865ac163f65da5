"""Carry out one run on an engine: segment by segment, heads where they can matter, rows leaving at exits.

Role: the inner loop of the worker process. Holds features of requests that may go on later, by ticket; merges them into
new batches when the front says so. A run asked to yield before it begins goes back untouched. At every exit it asks:
whose head must run, who leaves, does somebody want me to yield, would the next segment end too late?

Does not: choose exits or batches (the front did), or talk to sockets; the clock is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exits.bundle import Bundle
from ..exits.runner import EngineFault, Loaded, Logits
from ..policies.view import Row, Run
from .arena import Arena, Need
from .records import ExitDone, RowDone, RunReturned, StepDone

# Up to so many logits, plain Python finds the best of each row sooner than numpy: in a process whose caches others
# use in between, a numpy call costs 5 us and more.
FEW = 64


@dataclass(eq=False)
class Network:
    """A loaded network and what is needed to run it."""

    bundle: Bundle
    loaded: Loaded[Any]
    need: Need


@dataclass(eq=False)
class Executor:
    """All networks of one worker, and the features it keeps between runs.

    `clock_us`: monotonic microseconds, the same clock as the front's.
    """

    arena: Arena
    clock_us: Callable[[], int]
    networks: dict[str, Network] = field(default_factory=dict)
    _kept: dict[int, tuple[Any, int]] = field(default_factory=dict)

    def drop(self, tickets: Sequence[int]) -> None:
        """Free what is kept for these requests."""
        for ticket in tickets:
            self._kept.pop(ticket, None)

    def run(self, run: Run) -> Iterator[ExitDone | RunReturned]:
        """Yield what happened at each exit where a head ran; the last one says `finished`. Or that nothing ran.

        Raises:
            EngineFault: from the engine; KeyError: a network or features that were never here.
        """
        if self.arena.yield_asked(run.id):
            yield RunReturned(run.id)
            return
        network = self.networks[run.network]
        rows, features = self._start(run, network)
        steps: list[StepDone] = []
        index = run.first
        while rows:
            features, step = self._segment(network, index, features, len(rows))
            steps.append(step)
            early = self._must_stop(run, index, rows)
            looked = [i for i, row in enumerate(rows) if early or row.stop == index or index in row.exits]
            if looked:
                logits, step = self._head(network, index, features, looked, len(rows))
                steps.append(step)
                temperature = network.bundle.manifest.exits[index].temperature
                done = _outcomes(logits, temperature, [rows[i] for i in looked], index, early)
                self.arena.write_logits(run.id, network.need, index, logits.tobytes())
                leaving = [i for i, outcome in zip(looked, done, strict=True) if outcome.left]
                held = [
                    i
                    for i, outcome in zip(looked, done, strict=True)
                    if outcome.left and rows[i].is_held(gated=outcome.gated, early=early and index < rows[i].stop)
                ]
                if held:
                    self._keep(network, features, held, rows)
                finished = len(leaving) == len(rows)
                yield ExitDone(run.id, index, tuple(done), tuple(steps), b"", finished)
                if finished:
                    return
                steps = []
                if leaving:
                    staying = [i for i in range(len(rows)) if i not in leaving]
                    features = network.loaded.take(features, staying)
                    rows = [rows[i] for i in staying]
            index += 1

    def _start(self, run: Run, network: Network) -> tuple[list[Row], Any]:
        """The batch to start from, inputs in the arena or what earlier runs kept, and its rows in their order there.

        Rows kept by one run stay together and in order: each batch is copied at most once, a whole one not at all.
        """
        if run.first == 0:
            manifest = network.bundle.manifest
            inputs = self.arena.inputs(run.id, network.need, manifest.input.dtype, manifest.input.shape, len(run.rows))
            return list(run.rows), network.loaded.place(inputs)
        sources: dict[int, tuple[Any, list[tuple[int, Row]]]] = {}
        for row in run.rows:
            batch, position = self._kept.pop(row.ticket)
            sources.setdefault(id(batch), (batch, []))[1].append((position, row))
        rows: list[Row] = []
        parts: list[Any] = []
        for batch, found in sources.values():
            found.sort(key=_position)
            parts.append(network.loaded.take(batch, [position for position, _ in found]))
            rows += [row for _, row in found]
        return rows, parts[0] if len(parts) == 1 else network.loaded.join(parts)

    def _segment(self, network: Network, index: int, features: Any, count: int) -> tuple[Any, StepDone]:
        start_us = self.clock_us()
        result = network.loaded.segment(index, features)
        network.loaded.finish()
        return result, StepDone(False, index, count, self.clock_us() - start_us)

    def _head(
        self, network: Network, index: int, features: Any, looked: list[int], count: int
    ) -> tuple[Logits, StepDone]:
        start_us = self.clock_us()
        seen = features if len(looked) == count else network.loaded.take(features, looked)
        logits = network.loaded.head(index, seen)
        expected = (len(looked), network.need.class_count)
        if logits.shape != expected or logits.dtype != np.float32:
            raise EngineFault("output", f"head {index} gave {logits.dtype}{logits.shape}, expected float32{expected}")
        return logits, StepDone(True, index, len(looked), self.clock_us() - start_us)

    def _must_stop(self, run: Run, index: int, rows: Sequence[Row]) -> bool:
        """Whether everybody leaves here: asked to yield, or the next segment would end too late."""
        if not any(row.stop != index for row in rows):
            return False
        if self.arena.yield_asked(run.id):
            return True
        return bool(run.stop_by_us) and self.clock_us() + run.segments_us[index + 1] > run.stop_by_us

    def _keep(self, network: Network, features: Any, held: Sequence[int], rows: Sequence[Row]) -> None:
        """Hold features of rows that leave this run and may go on in another; a few of many in a batch of their own."""
        if 2 * len(held) <= len(rows):
            features = network.loaded.take(features, held)
            places: Sequence[int] = range(len(held))
        else:
            places = held
        for position, place in zip(held, places, strict=True):
            self._kept[rows[position].ticket] = (features, place)


def _position(found: tuple[int, Row]) -> int:
    return found[0]


def _outcomes(logits: Logits, temperature: float, rows: Sequence[Row], index: int, early: bool) -> list[RowDone]:
    """Label and calibrated confidence of each row, and whether it leaves."""
    judge = _judge_few if logits.size <= FEW else _judge
    result = []
    for row, (label, confidence) in zip(rows, judge(logits, temperature, index), strict=True):
        gated = row.lets_go(index, confidence)
        result.append(RowDone(row.ticket, label, confidence, gated or early or row.stop == index, gated))
    return result


def _judge(logits: Logits, temperature: float, index: int) -> Iterable[tuple[int, float]]:
    """Label and confidence of each row: the highest softmax probability after temperature scaling.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML'17; in doubles, as calibration counts.
    """
    scaled = logits.astype(np.float64)
    # A sum is finite only if all are; a runner has looked closer, and this is for one that has not.
    if not math.isfinite(np.add.reduce(scaled, axis=None)):
        raise _not_finite(index)
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled /= temperature
    return zip(logits.argmax(axis=1).tolist(), (1 / np.exp(scaled).sum(axis=1)).tolist(), strict=True)


def _judge_few(logits: Logits, temperature: float, index: int) -> list[tuple[int, float]]:
    """As `_judge`, for so few numbers that numpy's calls would cost more than the numbers."""
    judged = []
    for values in logits.tolist():
        if not math.isfinite(sum(values)):
            raise _not_finite(index)
        best = max(values)
        weights = [math.exp((value - best) / temperature) for value in values]
        judged.append((values.index(best), 1 / sum(weights)))
    return judged


def _not_finite(index: int) -> EngineFault:
    return EngineFault("output", f"head {index} gave NaN or infinite logits; is the input finite?")
