"""What a load run showed: counts, latencies, bounds met, exits, accuracy and energy, of all outcomes or of a stretch.

Role: `report` is a pure function from outcomes to one JSON-able record; take a slice of the outcomes for a phase.
Does not: send anything (load.py) or print.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from .load import Outcome

Scenario: TypeAlias = Literal["SingleStream", "MultiStream", "Server", "Offline"]
# Which figure LoadGen judges each scenario by. Source: MLPerf LoadGen, loadgen/README.md.
SCORES: dict[Scenario, str] = {
    "SingleStream": "p90_us",
    "MultiStream": "p99_us",
    "Server": "p99_us",
    "Offline": "answered_hz",
}


class Latencies(msgspec.Struct, frozen=True):
    """Nearest-rank percentiles of `n` answers, in microseconds; zeros when there are none."""

    n: int = 0
    p50_us: int = 0
    p90_us: int = 0
    p95_us: int = 0
    p99_us: int = 0
    max_us: int = 0


class LoadReport(msgspec.Struct, frozen=True):
    """One run, or a part of one. Shares are of 1 and None where nothing was answered.

    `latency`: from when a request was due to its answer, by the client's clock. `query`: the same for whole queries,
    which only differ in MultiStream. `from_send`: from the client's send. `daemon`: the daemon's own figure.
    `lag`: how late the generator itself was in sending. `met`: of answers, by the client's clock from send to receipt;
    `met_daemon`: as the daemon counts. `codes`: refusals and failures. `energy_mj`: all answers' sum, None if unknown.
    `score`: the figure the scenario is judged by, named in `score_name`.
    """

    scenario: Scenario
    score_name: str
    score: float
    requests: int
    answered: int
    refused: int
    failed: int
    codes: dict[str, int]
    duration_us: int
    offered_hz: float
    answered_hz: float
    latency: Latencies
    query: Latencies
    from_send: Latencies
    daemon: Latencies
    lag: Latencies
    met_count: int
    met: float | None
    met_daemon: float | None
    exits: dict[int, int]
    accuracy: float | None
    expected_accuracy: float | None
    energy_mj: float | None
    energy_source: str


def report(outcomes: Sequence[Outcome], scenario: Scenario = "Server") -> LoadReport:
    """Sum up outcomes. Rates are over the time from the first request due to the last end."""
    answers = [o for o in outcomes if not o.code]
    labelled = [o.correct for o in answers if o.correct is not None]
    first_us = min((o.due_us for o in outcomes), default=0)
    duration_us = max((o.ended_us for o in outcomes), default=0) - first_us
    seconds = duration_us / 1e6
    query = _query_latencies(outcomes)
    answered_hz = len(answers) / seconds if seconds else 0.0
    name = SCORES[scenario]
    refused = sum(o.refused for o in outcomes)
    energies = [o.energy_mj for o in answers if o.energy_mj is not None]
    return LoadReport(
        scenario=scenario,
        score_name=name,
        score=answered_hz if name == "answered_hz" else float(getattr(query, name)),
        requests=len(outcomes),
        answered=len(answers),
        refused=refused,
        failed=len(outcomes) - len(answers) - refused,
        codes=dict(Counter(o.code for o in outcomes if o.code)),
        duration_us=duration_us,
        offered_hz=len(outcomes) / seconds if seconds else 0.0,
        answered_hz=answered_hz,
        latency=latencies(o.ended_us - o.due_us for o in answers),
        query=query,
        from_send=latencies(o.ended_us - o.sent_us for o in answers),
        daemon=latencies(o.total_us for o in answers),
        lag=latencies(o.sent_us - o.due_us for o in outcomes),
        met_count=sum(o.met for o in answers),
        met=_share(o.met for o in answers),
        met_daemon=_share(o.met_daemon for o in answers),
        exits=dict(sorted(Counter(o.exit for o in answers).items())),
        accuracy=_share(labelled),
        expected_accuracy=float(np.mean([o.expected_accuracy for o in answers])) if answers else None,
        energy_mj=sum(energies) if energies and len(energies) == len(answers) else None,
        energy_source=_source(answers),
    )


def latencies(values_us: Iterable[int]) -> Latencies:
    """Percentiles by nearest rank: a value that occurred, never one in between."""
    values = np.sort(np.fromiter(values_us, np.int64))
    if not len(values):
        return Latencies()
    p50, p90, p95, p99 = (int(values[max(0, -(-len(values) * p // 100) - 1)]) for p in (50, 90, 95, 99))
    return Latencies(n=len(values), p50_us=p50, p90_us=p90, p95_us=p95, p99_us=p99, max_us=int(values[-1]))


def _query_latencies(outcomes: Sequence[Outcome]) -> Latencies:
    """Of whole queries: from when they were due to their last answer; a query with a request unanswered has none."""
    queries: defaultdict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        queries[outcome.query].append(outcome)
    return latencies(
        max(o.ended_us for o in one) - one[0].due_us for one in queries.values() if not any(o.code for o in one)
    )


def _share(values: Iterable[bool]) -> float | None:
    counted = list(values)
    return sum(counted) / len(counted) if counted else None


def _source(answers: Sequence[Outcome]) -> str:
    """The weakest source among the answers: a sum is as well known as its worst part."""
    sources = {o.energy_source for o in answers}
    return next((weakest for weakest in ("unknown", "modelled", "measured") if weakest in sources), "unknown")
