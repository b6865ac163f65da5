"""A device read off a journal: what runs took on the engine and beside it, and times as they were then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pytest

from delen.daemon.journal_records import Advanced, Chosen, NetworkNoted, Record, Submitted
from delen.daemon.records import ExitDone, RowDone, RunReturned, StepDone
from delen.daemon.weather import Ratios, TooLittle, Weather, observe
from delen.policies.view import Row, Run
from delen.profiles.costs import CostTables

# When the clock read this the first request came.
BOOT_US = 7_000_000


def network() -> NetworkNoted:
    """Two segments of 100 and 1000 us; heads of 10; a row more costs as much again."""

    def table(*us: float) -> list[list[float]]:
        return [[0.0, each, 2 * each] for each in us]

    segments, heads = table(100.0, 1000.0), table(10.0, 10.0)
    costs = CostTables(segments, heads, segments, heads, None, None, "unknown", [0.5, 0.9])
    return NetworkNoted("net", "1", 2, 0.0, None, (0, 0.0, 1.0), 0.0, costs, None, None)


def run(number: int) -> Run:
    return Run(number, "net", 0, (Row(number, 1, (), (), False),), 0, (), 0)


def done(number: int, *steps: StepDone, finished: bool = True) -> ExitDone:
    return ExitDone(number, 1, (RowDone(number, 1, 0.5, True, False),), steps, b"", finished)


def journal(ratios: Sequence[float], hops_us: Sequence[int], count: int = 200) -> list[Record]:
    """Runs of both segments and the last head, 5 ms apart, these ratios and hops in turn; a request before each."""
    records: list[Record] = [network()]
    for number, ratio, hop_us in zip(range(count), cycle(ratios), cycle(hops_us), strict=False):
        start_us = BOOT_US + 5_000 * number
        steps = [StepDone(False, 0, 1, int(100 * ratio)), StepDone(False, 1, 1, int(1000 * ratio))]
        steps.append(StepDone(True, 1, 1, 10))
        took_us = sum(step.took_us for step in steps)
        records.append(Submitted(start_us, "a", "net", b"%d" % number, 0, 4, "accepted", ()))
        records.append(Chosen(start_us, run(number)))
        # What happened at the first exit is told before the run is over.
        records.append(Advanced(start_us + 300, done(number, steps[0], finished=False), ()))
        records.append(Advanced(start_us + took_us + hop_us, done(number, *steps[1:]), ()))
    return records


def test_slowdown_and_hop_are_the_runs_own() -> None:
    seen = observe(journal([1.0, 1.2, 1.4], [150, 200, 2000]))
    assert seen.runs == 200
    assert seen.slower == pytest.approx(1.2, abs=0.01)
    assert seen.slower_p99 == pytest.approx(1.4, abs=0.01)
    assert (seen.hop_us, seen.hop_p99_us) == (200, 2000)
    assert seen.busy == pytest.approx((1.2 * 1100 + 10 + 783) / 5_000, abs=0.02)


def test_a_run_posted_behind_another_began_when_that_one_was_over() -> None:
    records = journal([1.0], [100])
    ahead = [record for record in records if isinstance(record, Chosen) and record.run is not None]
    for record in ahead[1:]:
        assert record.run is not None
        records[records.index(record)] = Chosen(record.now_us - 4_500, record.run)
    # 5,000 us from end to end, of which the engine had 1,110.
    assert observe(records).hop_us == 5_000 - 1_110


def test_runs_that_went_back_or_never_ended_do_not_count() -> None:
    records = journal([1.0], [100])
    lost: list[Record] = [Chosen(9_000_000, run(900)), Advanced(9_000_100, RunReturned(900), ())]
    lost.append(Chosen(9_000_200, run(901)))
    assert observe([*records, *lost]).runs == 200


def test_too_short_a_journal_is_refused() -> None:
    with pytest.raises(TooLittle, match="12 runs"):
        observe(journal([1.0], [100], count=12))


def test_requests_come_when_they_were_read() -> None:
    read_us = observe(journal([1.0], [100])).read_us
    assert [read_us["a", b"%d" % number] for number in (0, 1, 199)] == [0, 5_000, 199 * 5_000]


def test_what_begins_now_takes_as_long_as_what_began_last_and_was_about_as_long() -> None:
    short = Ratios(50.0, (0, 1_000), (3.0, 9.0))
    like = Weather([short, Ratios(500.0, (0,), (1.5,)), Ratios(2_000.0, (500,), (1.1,))], start_us=100)
    assert [like.took_us(10.0, now_us) for now_us in (0, 100, 1_099, 1_100, 9_999)] == [30, 30, 30, 90, 90]
    assert [like.took_us(us, 0) for us in (50.0, 100.0, 1000.0, 9000.0)] == [150, 150, 1100, 9900]
    assert like.took_us(0.01, 0) == 1


def test_a_slow_spell_is_met_when_it_was() -> None:
    spell = [1.0] * 50 + [2.0] * 50 + [1.0] * 100
    like = Weather(observe(journal(spell, [100])).steps)
    assert [like.took_us(1000.0, 5_000 * number + 200) for number in (0, 49, 50, 99, 100)] == [
        1000,
        1000,
        2000,
        2000,
        1000,
    ]
    assert like.took_us(100.0, 5_000 * 60) == 200
    assert like.took_us(10.0, 5_000 * 60 + 3_000) == 10, "heads did not stray"
