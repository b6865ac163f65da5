"""The real daemon's runs: batches that merge at an exit, work that gives way there, runs posted ahead or taken back.

What ran is read off the journal. The worker is held where something must be there before it goes on; where a run must
be half done, the engine is a replayed profile whose segments take a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from delen.clients.conditions import when
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import Answer
from delen.daemon.journal import read_journal
from delen.daemon.journal_records import Advanced, Chosen
from delen.daemon.records import ExitDone, RunReturned
from delen.tests.daemon_fixture import SETTINGS, Plain, held, serving, worker_of
from delen.tests.sample_profile import sample_profile

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEGMENT_MS = 200
# Stops nowhere: three runs of one segment each.
STAGED = (None, None, when("response_time", "greater", 3600))


class Journalled:
    """A daemon and what its core was told."""

    def __init__(self, daemon: PrivateDaemon, journal: Path) -> None:
        self.daemon = daemon
        self._journal = journal

    def runs(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """In order, once the daemon has stopped: (`chosen` | `over` | `returned`, run, its tickets)."""
        self.daemon.stop()
        found: list[tuple[str, int, tuple[int, ...]]] = []
        tickets: dict[int, tuple[int, ...]] = {}
        for record in read_journal(self._journal):
            if isinstance(record, Chosen) and record.run is not None:
                tickets[record.run.id] = tuple(row.ticket for row in record.run.rows)
                found.append(("chosen", record.run.id, tickets[record.run.id]))
            elif isinstance(record, Advanced):
                done = record.done
                if isinstance(done, RunReturned) or (isinstance(done, ExitDone) and done.finished):
                    kind = "returned" if isinstance(done, RunReturned) else "over"
                    found.append((kind, done.run, tickets[done.run]))
        return found


@contextmanager
def journalled(folder: Path, settings: str = "", *, limits: str = "") -> Iterator[Journalled]:
    journal = folder / "journal"
    with serving(folder, ("a", "b", "c"), f'journal = "{journal}"\n{settings}{SETTINGS}{limits}') as daemon:
        yield Journalled(daemon, journal)


@pytest.fixture
def slow_engine(tmp_path: Path) -> str:
    """Settings of an engine whose segments take SEGMENT_MS, one row or eight."""
    profile = sample_profile(segments_us=[SEGMENT_MS * 1000] * 3, heads_us=[100.0] * 3)
    each = [tuple(msgspec.structs.replace(row[0], n=100) for _ in row) for row in profile.segments]
    profile = msgspec.structs.replace(profile, segments=tuple(each))
    file = tmp_path / "profile.json"
    file.write_bytes(msgspec.json.encode(profile))
    return f'engine = "replay"\nreplay_profiles = ["{file}"]\n'


def test_batches_of_two_tenants_merge_at_an_exit(tmp_path: Path, slow_engine: str) -> None:
    with journalled(tmp_path, "ahead_us = 0\n" + slow_engine) as served:
        with Plain(served.daemon, "a") as a, Plain(served.daemon, "b") as b, Plain(served.daemon, "c") as c:
            # One alone, on its way to the last exit; then one too urgent to wait for that, and one that is not.
            first = a.infer(latency_ms=20_000.0)
            assert a.until_pong() == []
            urgent = c.infer(latency_ms=3.3 * SEGMENT_MS)
            second = b.infer(latency_ms=20_000.0)
            (of_urgent,), (of_first,), (of_second,) = c.answers([urgent]), a.answers([first]), b.answers([second])
        runs = [tickets for kind, _, tickets in served.runs() if kind == "over"]
    # It gave way at its first exit, kept what it had, and went on in the company of the other two.
    assert runs[0] == (1,)
    assert of_first.batches[0] == 1
    assert max(of_first.batches[1:]) >= 2, "a larger batch deeper than at its first exit"
    assert of_second.batches[0] == 2
    assert (of_first.exit, of_second.exit) == (2, 2)
    assert of_urgent.broken == ()


def test_best_effort_gives_way_at_an_exit_and_goes_on_from_there(tmp_path: Path, slow_engine: str) -> None:
    with journalled(tmp_path, slow_engine) as served:
        with Plain(served.daemon, "a") as a, Plain(served.daemon, "b") as b:
            patient = a.infer()
            assert a.until_pong() == []
            urgent = b.infer(latency_ms=3.3 * SEGMENT_MS)
            (of_urgent,) = b.answers([urgent])
            (of_patient,) = a.answers([patient])
        runs = [tickets for kind, _, tickets in served.runs() if kind == "over"]
    assert of_urgent.broken == ()
    assert of_urgent.total_us < 3 * SEGMENT_MS * 1000, "it did not wait for all of the other's segments"
    assert of_patient.exit == 2
    # Every segment ran once: what it had at the exit where it gave way was kept.
    assert of_patient.batches == (1, 1, 1)
    assert runs[-1] == (1,)


def test_a_run_that_has_not_begun_is_taken_back_for_a_bounded_request(tmp_path: Path) -> None:
    with journalled(tmp_path) as served:
        with Plain(served.daemon, "a") as a, Plain(served.daemon, "b") as b:
            with held(worker_of(served.daemon)):
                patient = a.infer()
                assert a.until_pong() == []
                bounded = b.infer(accuracy=0.9)
                assert b.until_pong() == []
            b.answers([bounded])
            (of_patient,) = a.answers([patient])
        runs = served.runs()
    assert runs[:3] == [("chosen", 1, (1,)), ("chosen", 2, (2,)), ("returned", 1, (1,))]
    assert next(tickets for kind, _, tickets in runs if kind == "over") == (2,), "the bounded one runs first"
    assert of_patient.exit == 2


def test_the_next_run_is_posted_while_one_executes_and_never_more_than_one(tmp_path: Path) -> None:
    with journalled(tmp_path, "ahead_us = 1000000\n") as served:
        with Plain(served.daemon, "a") as a, Plain(served.daemon, "b") as b:
            with held(worker_of(served.daemon)):
                ids = [a.infer(conditions=STAGED), a.infer(conditions=STAGED)]
                assert a.until_pong() == []
                other = b.infer()
                assert b.until_pong() == []
            answers = [*a.answers(ids), *b.answers([other])]
        runs = served.runs()
    # The second is behind the first before that is over; the third waits.
    assert runs[:3] == [("chosen", 1, (1,)), ("chosen", 2, (2,)), ("over", 1, (1,))]
    open_most = most = 0
    for kind, _, _ in runs:
        open_most += 1 if kind == "chosen" else -1
        most = max(most, open_most)
    assert most == 2
    assert [(answer.exit, answer.batches) for answer in answers] == [(2, (1, 1, 1))] * 3
    assert_same_answers(answers)


def test_what_was_posted_ahead_is_taken_back_and_loses_nothing(tmp_path: Path) -> None:
    with journalled(tmp_path, "ahead_us = 1000000\n", limits="batch_max = 1\n") as served:
        with Plain(served.daemon, "a") as a, Plain(served.daemon, "b") as b:
            # One row fills a run, and the second is posted behind the first; nobody needs either.
            with held(worker_of(served.daemon)):
                ids = [a.infer(), a.infer()]
                assert a.until_pong() == []
                bounded = b.infer(accuracy=0.9)
                assert b.until_pong() == []
            b.answers([bounded])
            answers = a.answers(ids)
        runs = served.runs()
    assert runs[:3] == [("chosen", 1, (1,)), ("chosen", 2, (2,)), ("returned", 1, (1,))]
    assert [run for kind, run, _ in runs if kind == "returned"] == [1, 2]
    assert next(tickets for kind, _, tickets in runs if kind == "over") == (3,), "the bounded one runs first"
    assert [answer.exit for answer in answers] == [2, 2]
    assert_same_answers(answers)


def assert_same_answers(answers: list[Answer]) -> None:
    """All were asked of the same input."""
    assert len({(answer.label, round(answer.confidence, 4)) for answer in answers}) == 1
