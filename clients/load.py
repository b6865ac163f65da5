"""The load generator: asks as MLPerf LoadGen's scenarios do, and keeps what became of every request.

Role: `server` sends at given times whatever the answers do (open loop); `single_stream`, `multi_stream` and `offline`
wait for answers as those scenarios say. Each returns one `Outcome` per request; `load_report.report` sums them up.
Flow: due requests -> `Client.begin`; `Client.turn` until the next is due; ends arrive by callback; one thread.
Latency counts from the time a request was *due*, so a generator or daemon that falls behind cannot hide it; how late
the generator itself was is in `sent_us`.
Source: MLPerf LoadGen, loadgen/README.md (scenarios and their percentiles).

Does not: make arrival times (arrivals.py) or pictures, print, or decide when a run was long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .asking import now_us
from .errors import DelenError, QueueFull, Refused
from .results import Result

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from .info import NetworkInfo
    from .inputs import BoundArguments, InputLike

# A turn waits no longer than this, so that progress is told in time; a second long ended is told by then.
TURN_US = 50_000
SECOND_US = 1_000_000
MULTI_STREAM_SAMPLES = 8


class Asker(Protocol):
    """What the generator needs of a client: `client.Client`, or one on a virtual clock in tests."""

    def begin(
        self,
        network: str,
        x: InputLike,
        on_end: Callable[[Result | DelenError], None],
        *,
        timeout_s: float | None = None,
        **bounds: Unpack[BoundArguments],
    ) -> bytes: ...

    def turn(self, wait_us: int) -> None: ...

    def networks(self) -> tuple[NetworkInfo, ...]: ...


@dataclass(frozen=True)
class Questions:
    """What is asked, again and again: `inputs` in turn, `labels` where the truth is known.

    `arguments`: keyword arguments of `Client.infer`: bounds and `timeout_s`.
    """

    network: str
    inputs: Sequence[InputLike]
    labels: Sequence[int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What became of one request. Times: this client's clock, in us from the start of the run.

    `code`: empty when answered, else the refusal's or failure's; `refused` tells the two apart. `met`: every bound
    held, latency by this clock from send to receipt; `met_daemon`: as the daemon counts. `correct`: None without label.
    """

    query: int
    due_us: int
    sent_us: int
    ended_us: int
    code: str = ""
    refused: bool = False
    exit: int = 0
    met: bool = False
    met_daemon: bool = False
    correct: bool | None = None
    expected_accuracy: float = 0.0
    total_us: int = 0
    energy_mj: float | None = None
    energy_source: str = "unknown"


# Told with the outcomes of each second that is over, and its number from 0.
Progress = Callable[[int, list[Outcome]], None]


@dataclass
class Run:
    """One run's state: what is out, what ended. `clock` reads microseconds; tests pass their own."""

    asker: Asker
    questions: Questions
    clock: Callable[[], int] = now_us
    on_second: Progress | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    outstanding_count: int = 0
    _started_us: int = 0
    _told_count: int = 0
    _second: int = 0

    def start(self) -> None:
        """Learn the network first, so that the first request is not late; then the run's clock begins."""
        self.asker.networks()
        self._started_us = self.clock()

    def elapsed_us(self) -> int:
        """Since the run's start."""
        return self.clock() - self._started_us

    def ask(self, index: int, *, due_us: int, query: int) -> None:
        """Send request `index`. A full client is an outcome; a bad request is the caller's error and raises."""
        questions = self.questions
        which = index % len(questions.inputs)
        label = questions.labels[which] if questions.labels is not None else None
        sent_us = self.elapsed_us()

        def ended(end: Result | DelenError) -> None:
            self.outstanding_count -= 1
            # The client noted the receipt on the same clock, before it got round to telling.
            ended_us = end.received_us - self._started_us if isinstance(end, Result) else self.elapsed_us()
            self.outcomes.append(_outcome(end, Outcome(query, due_us, sent_us, ended_us), label, self._latency_us))

        self.outstanding_count += 1
        try:
            self.asker.begin(questions.network, questions.inputs[which], ended, **questions.arguments)
        except QueueFull as error:
            ended(error)
        except BaseException:
            self.outstanding_count -= 1
            raise

    def turn(self, until_us: int) -> None:
        """Let answers come in until something came, or the run's clock is at `until_us`, or a while has passed."""
        self.asker.turn(max(0, min(until_us - self.elapsed_us(), TURN_US)))
        self._tell()

    def finish(self) -> list[Outcome]:
        """Wait for what is out; every request ends, at the latest by its time-out."""
        while self.outstanding_count:
            self.turn(self.elapsed_us() + TURN_US)
        self._tell(last=True)
        return self.outcomes

    @property
    def _latency_us(self) -> float | None:
        latency_ms = self.questions.arguments.get("latency_ms")
        return None if latency_ms is None else latency_ms * 1000

    def _tell(self, *, last: bool = False) -> None:
        if self.on_second is None:
            return
        now_second = self.elapsed_us() // SECOND_US + last
        while self._second < now_second:
            self._second += 1
            first = self._told_count
            while first < len(self.outcomes) and self.outcomes[first].ended_us < self._second * SECOND_US:
                first += 1
            fresh = self.outcomes[self._told_count : first]
            self._told_count = first
            self.on_second(self._second - 1, fresh)


def server(run: Run, arrivals_us: npt.NDArray[np.int64]) -> list[Outcome]:
    """Open loop: request i is sent when `arrivals_us[i]` comes, however many are out. Judged by p99."""
    run.start()
    due = [int(time_us) for time_us in arrivals_us]
    index = 0
    while index < len(due):
        now = run.elapsed_us()
        while index < len(due) and due[index] <= now:
            run.ask(index, due_us=due[index], query=index)
            index += 1
        run.turn(due[index] if index < len(due) else now)
    return run.finish()


def single_stream(run: Run, *, count: int, duration_s: float = 0.0) -> list[Outcome]:
    """One request after the other, at least `count` and for at least `duration_s`. Judged by p90."""
    return multi_stream(run, count=count, duration_s=duration_s, samples=1)


def multi_stream(
    run: Run, *, count: int, duration_s: float = 0.0, samples: int = MULTI_STREAM_SAMPLES
) -> list[Outcome]:
    """Queries of `samples` requests each; the next begins when all of one ended. Judged by p99 of whole queries."""
    run.start()
    query = 0
    while query < count or run.elapsed_us() < duration_s * 1e6:
        due_us = run.elapsed_us()
        for sample in range(samples):
            run.ask(query * samples + sample, due_us=due_us, query=query)
        while run.outstanding_count:
            run.turn(run.elapsed_us() + TURN_US)
        query += 1
    return run.finish()


def offline(run: Run, *, count: int, outstanding_max: int) -> list[Outcome]:
    """All at once, as far as the daemon's queue goes: `outstanding_max` out at any time. Judged by throughput."""
    run.start()
    for index in range(count):
        while run.outstanding_count >= outstanding_max:
            run.turn(run.elapsed_us() + TURN_US)
        run.ask(index, due_us=0, query=index)
    return run.finish()


def _outcome(end: Result | DelenError, base: Outcome, label: int | None, latency_us: float | None) -> Outcome:
    if isinstance(end, DelenError):
        return base._replace(code=end.code, refused=isinstance(end, Refused))
    answer = end.answer
    if latency_us is None:
        met = not answer.broken
    else:
        met = base.ended_us - base.sent_us <= latency_us and not set(answer.broken) - {"latency_ms"}
    return base._replace(
        exit=answer.exit,
        met=met,
        met_daemon=not answer.broken,
        correct=None if label is None else answer.label == label,
        expected_accuracy=answer.expected_accuracy,
        total_us=answer.total_us,
        energy_mj=answer.energy_mj,
        energy_source=answer.energy_source,
    )
