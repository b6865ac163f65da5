"""Runs on an engine: who leaves where, what is kept for later, and what is reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delen.daemon import execute
from delen.daemon.arena import Arena, Need
from delen.daemon.execute import Executor, Network
from delen.daemon.records import ExitDone, RunReturned
from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.runner import EngineFault
from delen.policies.view import Row, Run

Batch = npt.NDArray[np.float32]
NEED = Need(input_bytes=256, exit_count=3, class_count=10, batch_max=8)


@dataclass
class Marks:
    """A loaded network that computes nothing: a row's first value stays with it, and head k says it is that sure.

    Logits of a row with mark m: m at class k, 0 elsewhere, so that the label tells the head.
    """

    log: list[str] = field(default_factory=list)
    on_segment: Callable[[int], None] = lambda index: None

    def place(self, images: npt.NDArray[Any]) -> Batch:
        return np.array(images.reshape(len(images), -1)[:, 0], np.float32)

    def segment(self, index: int, features: Batch) -> Batch:
        self.log.append(f"segment {index} x{len(features)}")
        self.on_segment(index)
        return features

    def head(self, index: int, features: Batch) -> Batch:
        self.log.append(f"head {index} x{len(features)}")
        logits = np.zeros((len(features), 10), np.float32)
        logits[:, index] = features
        return logits

    def take(self, features: Batch, rows: Sequence[int]) -> Batch:
        return features[list(rows)]

    def join(self, parts: Sequence[Batch]) -> Batch:
        return np.concatenate(list(parts))

    def finish(self) -> None:
        """Nothing to wait for."""


class Clock:
    """Microseconds, advanced by hand: `step_us` with every reading."""

    def __init__(self, step_us: int = 5) -> None:
        self.now_us, self.step_us = 0, step_us

    def __call__(self) -> int:
        self.now_us += self.step_us
        return self.now_us


@dataclass
class Bench:
    """An executor with one network called `net`, and the front's view of its memory."""

    executor: Executor
    front: Arena
    network: Marks
    bundle: Bundle

    def run(
        self, *rows: Row, marks: Sequence[float] = (), first: int = 0, run_id: int = 1, **more: Any
    ) -> list[ExitDone]:
        for index, mark in enumerate(marks):
            self.front.write_input(run_id, NEED, index, np.full(64, mark, np.float32).tobytes())
        done = list(self.attempt(*rows, first=first, run_id=run_id, **more))
        assert all(isinstance(report, ExitDone) for report in done)
        return [report for report in done if isinstance(report, ExitDone)]

    def logits(self, run_id: int, exit_index: int, count: int) -> Batch:
        """As they lie in the memory that the front reads."""
        return np.frombuffer(self.front.logits(run_id, NEED, exit_index, count), np.float32).reshape(count, 10)

    def attempt(self, *rows: Row, first: int = 0, run_id: int = 1, **more: Any) -> Iterator[ExitDone | RunReturned]:
        settings: dict[str, Any] = {"stop_by_us": 0, "segments_us": (), "predicted_us": 0, **more}
        return self.executor.run(Run(run_id, "net", first, rows, **settings))


@pytest.fixture
def bench() -> Iterator[Bench]:
    fd, size = Arena.create([NEED])
    bundle = load_bundle(shipped_directory() / "digits")
    network = Marks()
    executor = Executor(Arena(fd, size), Clock())
    executor.networks["net"] = Network(bundle, network, NEED)
    yield Bench(executor, Arena(fd, size), network, bundle)
    os.close(fd)


def row(ticket: int, stop: int, *, gate: float | None = None, keep: bool = False, audit: bool = False) -> Row:
    exits = tuple(range(stop)) if gate is not None else ()
    return Row(ticket, stop, exits, () if gate is None else (gate,) * stop, keep, audit)


def answers(bench: Bench, done: ExitDone, run_id: int) -> dict[int, float]:
    """Ticket -> the mark that its logits carry, in the memory the front reads."""
    logits = bench.logits(run_id, done.exit, len(done.rows))
    return {outcome.ticket: float(logits[place, done.exit]) for place, outcome in enumerate(done.rows)}


def left(reports: Sequence[ExitDone]) -> dict[int, int]:
    """Ticket -> the exit where it left."""
    return {outcome.ticket: done.exit for done in reports for outcome in done.rows if outcome.left}


def test_a_head_runs_only_where_somebody_leaves(bench: Bench) -> None:
    [done] = bench.run(row(1, 2), marks=[5.0])
    assert bench.network.log == ["segment 0 x1", "segment 1 x1", "segment 2 x1", "head 2 x1"]
    assert (done.exit, done.finished) == (2, True)
    assert [(step.head, step.index, step.batch) for step in done.steps] == [
        (False, 0, 1),
        (False, 1, 1),
        (False, 2, 1),
        (True, 2, 1),
    ]
    assert all(step.took_us > 0 for step in done.steps)


def test_rows_leave_at_their_stops_and_the_rest_goes_on_smaller(bench: Bench) -> None:
    reports = bench.run(row(1, 2), row(2, 0), row(3, 1), marks=[1.0, 2.0, 3.0])
    assert left(reports) == {2: 0, 3: 1, 1: 2}
    assert bench.network.log == [
        "segment 0 x3",
        "head 0 x1",
        "segment 1 x2",
        "head 1 x1",
        "segment 2 x1",
        "head 2 x1",
    ]
    assert [done.finished for done in reports] == [False, False, True]


def test_logits_lie_in_shared_memory_in_the_order_of_the_report(bench: Bench) -> None:
    reports = bench.run(row(1, 1), row(2, 0), row(3, 1), marks=[1.0, 2.0, 3.0])
    last = reports[-1]
    assert [outcome.ticket for outcome in last.rows] == [1, 3]
    assert bench.logits(1, 1, 2)[:, 1].tolist() == [1.0, 3.0]
    assert bench.logits(1, 0, 1)[:, 0].tolist() == [2.0]


def test_confidence_is_the_softmax_at_the_exits_temperature(bench: Bench) -> None:
    [done] = bench.run(row(1, 0), marks=[4.0])
    scaled = np.exp(4.0 / bench.bundle.manifest.exits[0].temperature)
    assert done.rows[0].confidence == pytest.approx(scaled / (scaled + 9), rel=1e-5)
    assert done.rows[0].label == 0


@pytest.mark.parametrize("mark", [-3.0, 0.0, 4.0, 3e38])
def test_a_row_is_judged_alike_alone_and_in_a_full_batch(bench: Bench, mark: float) -> None:
    """Few logits and many are gone through in different ways."""
    [alone] = bench.run(row(1, 1), marks=[mark])
    assert NEED.batch_max * NEED.class_count > execute.FEW >= NEED.class_count, "or both go the same way"
    [full] = bench.run(*(row(ticket, 1) for ticket in range(1, 9)), marks=[mark, *range(7)], run_id=2)
    assert full.rows[0].label == alone.rows[0].label
    assert full.rows[0].confidence == pytest.approx(alone.rows[0].confidence, rel=1e-12)


def test_a_gate_lets_the_sure_go_and_keeps_the_others(bench: Bench) -> None:
    reports = bench.run(row(1, 2, gate=0.9), row(2, 2, gate=0.9), row(3, 2), marks=[50.0, 0.1, 50.0])
    assert left(reports) == {1: 0, 2: 2, 3: 2}
    gated = {outcome.ticket for done in reports for outcome in done.rows if outcome.gated}
    assert gated == {1}
    assert bench.network.log[1] == "head 0 x2", "a row without a gate needs no look"


def test_asked_to_yield_everybody_leaves_at_the_next_exit_and_can_go_on_merged_with_others(bench: Bench) -> None:
    bench.network.on_segment = lambda index: bench.front.ask_yield(1)
    first = bench.run(row(1, 2), row(2, 1), marks=[1.0, 2.0], run_id=1)
    assert left(first) == {1: 0, 2: 0}
    second = bench.run(row(3, 0, keep=True), row(4, 0), marks=[3.0, 4.0], run_id=2)
    assert left(second) == {3: 0, 4: 0}
    # Rows of two runs, not in the order they were kept in: each answer still goes to whom it belongs.
    third = bench.run(row(2, 2), row(3, 2), row(1, 2), first=1, run_id=3)
    assert answers(bench, third[-1], 3) == {1: 1.0, 2: 2.0, 3: 3.0}


def test_batches_that_merge_are_copied_at_most_once_each_and_a_whole_one_not_at_all(bench: Bench) -> None:
    taken: list[list[int]] = []
    take = bench.network.take

    def noted(features: Batch, rows: Sequence[int]) -> Batch:
        taken.append(list(rows))
        return take(features, rows)

    bench.run(*(row(ticket, 0, keep=True) for ticket in (1, 2, 3)), marks=[1.0, 2.0, 3.0], run_id=1)
    bench.run(*(row(ticket, 0, keep=True) for ticket in (4, 5)), marks=[4.0, 5.0], run_id=2)
    bench.network.take = noted  # type: ignore[method-assign]
    [done] = bench.run(*(row(ticket, 1) for ticket in (4, 1, 5, 3, 2)), first=1, run_id=3)
    assert taken == [[0, 1], [0, 1, 2]]
    assert answers(bench, done, 3) == {ticket: float(ticket) for ticket in (1, 2, 3, 4, 5)}


def test_of_a_large_batch_only_the_few_rows_that_may_go_on_are_kept_in_memory(bench: Bench) -> None:
    bench.run(row(1, 0), row(2, 0, keep=True), row(3, 0), row(4, 0), marks=[1.0, 2.0, 3.0, 4.0])
    features, place = bench.executor._kept[2]
    assert (len(features), place) == (1, 0)
    [done] = bench.run(row(2, 1), first=1, run_id=2)
    assert answers(bench, done, 2) == {2: 2.0}


def test_a_run_asked_to_yield_before_it_begins_goes_back_and_nothing_of_it_runs(bench: Bench) -> None:
    bench.run(row(1, 0, keep=True), marks=[1.0], run_id=1)
    bench.network.log.clear()
    bench.front.ask_yield(2)
    assert list(bench.attempt(row(1, 2), first=1, run_id=2)) == [RunReturned(2)]
    assert bench.network.log == []
    # What it was to start from is still there for the run it will be in next.
    assert left(bench.run(row(1, 2), first=1, run_id=3)) == {1: 2}


def test_the_flag_of_another_run_is_not_heard(bench: Bench) -> None:
    bench.front.ask_yield(7)
    assert left(bench.run(row(1, 2), marks=[1.0])) == {1: 2}


def test_every_exit_has_a_gate_of_its_own(bench: Bench) -> None:
    rows = Row(1, 2, (0, 1), (0.99, 0.9), keep=False), Row(2, 2, (1,), (0.9,), keep=False)
    assert left(bench.run(*rows, marks=[3.0, 50.0])) == {1: 1, 2: 1}


def test_what_a_gate_let_go_is_kept_where_it_will_be_looked_at_again(bench: Bench) -> None:
    bench.run(row(1, 2, gate=0.5, audit=True), row(2, 2, gate=0.5), marks=[50.0, 50.0])
    assert left(bench.run(row(1, 2), first=1, run_id=2)) == {1: 2}
    with pytest.raises(KeyError):
        bench.run(row(2, 2), first=1, run_id=3)


def test_what_left_for_good_is_not_kept(bench: Bench) -> None:
    bench.run(row(1, 0), row(2, 2, gate=0.5, keep=True), marks=[1.0, 50.0])
    for ticket in (1, 2):
        with pytest.raises(KeyError):
            bench.run(row(ticket, 1), first=1, run_id=2)


def test_what_is_dropped_is_not_kept(bench: Bench) -> None:
    bench.run(row(1, 0, keep=True), row(2, 0, keep=True), marks=[1.0, 2.0])
    bench.executor.drop([1, 99])
    with pytest.raises(KeyError):
        bench.run(row(1, 1), first=1, run_id=2)
    assert left(bench.run(row(2, 1), first=1, run_id=2)) == {2: 1}


def test_rows_leave_early_when_the_next_segment_would_end_too_late(bench: Bench) -> None:
    def ends(stop_by_us: int) -> dict[int, int]:
        bench.executor.clock_us = Clock()
        return left(bench.run(row(1, 2), marks=[1.0], stop_by_us=stop_by_us, segments_us=(100, 200, 400)))

    # The clock stands at a few readings of 5 us when the first exit is reached.
    assert ends(200) == {1: 0}
    assert ends(300) == {1: 1}
    assert ends(500) == {1: 2}


@pytest.mark.parametrize("count", [1, NEED.batch_max])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_a_fault_of_the_run_not_an_answer(bench: Bench, bad: float, count: int) -> None:
    with pytest.raises(EngineFault, match="finite") as caught:
        bench.run(*(row(ticket, 0) for ticket in range(count)), marks=[bad] * count)
    assert caught.value.kind == "output"


def test_logits_of_another_shape_are_a_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.network, "head", lambda index, features: np.zeros((len(features), 9), np.float32))
    with pytest.raises(EngineFault, match="expected") as caught:
        bench.run(row(1, 0), marks=[1.0])
    assert caught.value.kind == "output"
