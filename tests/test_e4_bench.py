"""E4 real against simulated: what counts as agreeing, and that both sides are asked and counted alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from delen.clients.wire import VERSION, Answer, Frames, Infer, Refusal, decode_request
from delen.daemon import e4_bench
from delen.daemon.e4_bench import Ends, Figures, Play, Run, bench_e4, compared
from delen.daemon.scenario import load_scenario
from delen.daemon.weather import DeviceObserved, Ratios

SEEN = DeviceObserved(
    runs=100,
    busy=0.5,
    slower=1.0,
    slower_p99=1.2,
    hop_us=200,
    hop_p99_us=400,
    steps=(Ratios(1e9, (0,), (1.0,)),),
    hops=Ratios(200.0, (0,), (1.0,)),
    read_us={},
)
PROFILE = Path(e4_bench.__file__).parent.parent / "policies" / "scenarios" / "fashion-profile.json"


@pytest.mark.parametrize(
    ("violations", "exits", "agrees"),
    [([3.0, 3.0, 9.0], [2.0, 2.0, 0.0], True), ([3.0, 4.1, 4.1], [2.0, 2.0, 2.0], False), ([3.0], [2.3], False)],
)
def test_medians_must_be_within_a_point_and_a_fifth_of_an_exit(
    violations: list[float], exits: list[float], agrees: bool
) -> None:
    runs = [
        Run(Figures(share, 0.0, depth), Figures(3.0, 0.0, 2.0), SEEN)
        for share, depth in zip(violations, exits, strict=True)
    ]
    assert compared(100.0, runs).agrees is agrees


@pytest.mark.slow
def test_every_load_is_played_to_a_daemon_and_to_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that refuses every tenth request, and answers the others at exit 1."""
    played: list[list[int]] = []
    read_us: dict[tuple[str, bytes], int] = {}

    @contextmanager
    def playing(tenants: Sequence[str], networks: Sequence[str], state: Path, journal: Path | None) -> Iterator[Play]:
        assert (len(tenants), list(networks)) == (8, ["fashion"])

        def play(messages: Sequence[tuple[int, str, Frames]]) -> tuple[Ends, Sequence[int]]:
            played.append([when_us for when_us, _, _ in messages])
            found: dict[tuple[str, bytes], Answer | Refusal] = {}
            for place, (when_us, tenant, frames) in enumerate(messages):
                infer = decode_request(frames, 10_000)
                assert isinstance(infer, Infer)
                read_us[tenant, infer.id] = when_us
                found[tenant, infer.id] = refused(infer.id) if place % 10 == 0 else answered(infer.id)
            return found, [7] * len(messages)

        yield play

    monkeypatch.setattr(e4_bench, "_profile", lambda state: PROFILE)
    monkeypatch.setattr(e4_bench, "read_journal", lambda path: [])
    monkeypatch.setattr(e4_bench, "observe", lambda records: msgspec.structs.replace(SEEN, read_us=read_us))
    short = msgspec.structs.replace(load_scenario("e4"), duration_s=1.0, warmup_s=0.2)
    monkeypatch.setattr(e4_bench, "load_scenario", lambda name: short)
    report = bench_e4(playing, runs=2)
    assert len(played) == 2 * len(short.cases)
    assert all(times == sorted(times) for times in played)
    assert report.late_p99_us == 7
    assert [compared.load for compared in report.loads] == [case.load for case in short.cases]
    for found in report.loads:
        assert found.real.violations_pct == found.real.refused_pct == pytest.approx(10, abs=1.5)
        assert found.real.mean_exit == 1
        assert len(found.simulated_runs) == 2
        assert found.simulated.mean_exit > 1.2, "on an exact device most go deeper"


def refused(request_id: bytes) -> Refusal:
    return Refusal(VERSION, request_id, "infeasible", "no time")


def answered(request_id: bytes) -> Answer:
    return Answer(
        version=VERSION,
        id=request_id,
        network="fashion",
        network_version="1",
        tensors=(),
        label=0,
        exit=1,
        confidence=0.9,
        expected_accuracy=0.9,
        certificate="uncertified",
        queue_us=0,
        compute_us=1,
        total_us=1,
        batches=(1,),
        energy_mj=None,
        energy_source="unknown",
        broken=(),
        stop="last_exit",
    )
