"""P1: every accepted request has exactly one end, whatever happens meanwhile to workers, connections and networks."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Stats, StatsReply
from delen.daemon.config import Limits
from delen.tests.daemon_fixture import Plain, serving
from delen.tests.faults import figures
from delen.tests.faults.asking import Asking
from delen.tests.faults.counts import count, randomness
from delen.tests.faults.traffic import Traffic
from delen.tests.versions import version

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# All that has ended stays to be fetched: what the window has let go may be run again. A hang is found out at once. The
# inputs that two kills happen to hit are poison for a second, and no reason to bar a tenant, as eight usually are.
SETTINGS = """
[limits]
payload_bytes_max = 65536
run_ms_min = 400
answers_kept_max = 200000
answers_kept_bytes_max = 100000000
sessions_max = 1024
poison_ms = 1000
poison_inputs_max = 1000
queued_max = 200
"""
TENANTS, USER = ("a", "b", "c"), "d"
# A worker is killed after so many ends, and another version swapped in.
KILL_AFTER, SWAP_AFTER = 3_000, 15_000
# If nothing ends for so long, something is lost.
STUCK_S = 20.0
KILLS = (signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP)


class Injector:
    """Kills workers and swaps networks, at moments of its own."""

    def __init__(self, daemon: PrivateDaemon, random: Random, folder: Path) -> None:
        self.done: Counter[str] = Counter()
        self._pid, self._random = daemon.pid, random
        self._versions = [str(version(folder, f"7.{number}")) for number in range(2)]
        self._kill_at = self._swap_at = 0
        self._choose(0)
        self._swap_at = SWAP_AFTER // 2

    def _choose(self, ended: int) -> None:
        self._kill_at = ended + int(self._random.uniform(0.2, 1.8) * KILL_AFTER)

    def turn(self, ended: int, manager: Traffic) -> None:
        if ended >= self._kill_at:
            self._choose(ended)
            number = KILLS[sum(self.done.values()) % len(KILLS)]
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
            if children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(self._random.choice(children)), number)
                self.done[number.name] += 1
        if ended >= self._swap_at:
            self._swap_at = ended + SWAP_AFTER
            self.done["swap"] += 1
            manager.swap(self._versions[self.done["swap"] % 2])


def pressed(traffics: Sequence[Traffic], injector: Injector, wanted: int) -> float:
    """Ask, and let things go wrong, until so many requests have ended; returns how long it took, s."""
    began_s = moved_s = time.monotonic()
    before = 0
    while (ended := sum(each.ended for each in traffics)) < wanted:
        moved_s = time.monotonic() if ended > before else moved_s
        before = ended
        if time.monotonic() - moved_s > STUCK_S:
            # What is lost is found once nobody asks any more.
            break
        injector.turn(ended, traffics[0])
        for each in traffics:
            each.turn(wanted - ended)
        select.select([fd for each in traffics for fd in each.files()], [], [], 0.002)
    return time.monotonic() - began_s


def test_every_request_has_exactly_one_end_though_all_goes_wrong(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, wanted = tmp_path_factory.getbasetemp(), count("P1 requests")
    with serving(folder, (*TENANTS, USER), SETTINGS) as daemon, contextlib.ExitStack() as stack:
        traffics = [
            stack.enter_context(Traffic(daemon, name, randomness("P1", number), rate_hz=150.0))
            for number, name in enumerate(TENANTS)
        ]
        injector = Injector(daemon, randomness("P1", len(TENANTS)), folder)
        user = stack.enter_context(Asking(daemon.endpoint(USER)))
        took_s = pressed(traffics, injector, wanted)
        for each in traffics:
            each.settle()
        asked = user.stop()
        with Plain(daemon) as plain:
            rows = {row.tenant: row for row in plain.ask(Stats(VERSION, plain.new_id()), StatsReply).tenants}
            stats = plain.until_worker_is("ready", plain.stats().worker_restarts)
        for each in traffics:
            row = rows[each.tenant]
            assert row.accepted == row.answered + row.failed + row.pending
            assert row.pending == 0
            each.history.finish(row.answered, row.failed)
        # Who uses the client that users have knows nothing of all this: not a call is lost, and none is run twice.
        row = rows[USER]
        assert not set(asked) - {"calls", "answer", "engine_crashed", "poison", "not_ready"}, asked
        assert (asked["answer"], asked["calls"] - asked["answer"]) == (row.answered, row.failed + row.refused), asked
    assert stats.queued == 0
    told = sum((each.history.ends for each in traffics), Counter())
    mischief = sum((each.mischief for each in traffics), injector.done)
    assert [f"{each.tenant}: {fault}" for each in traffics for fault in each.history.faults[:10]] == []
    assert [f"{each.tenant}: {fault}" for each in traffics for fault in each.pictures.faults[:10]] == []
    # Everything has an end, and nearly always the one that was asked for: only what a worker had in its hands may fail.
    assert told["answer"] > wanted / 2, told
    assert told["engine_crashed"] + told["poison"] <= Limits().batch_max * stats.worker_restarts, told
    assert min(injector.done[kind] for kind in ("SIGSEGV", "SIGKILL", "SIGSTOP", "swap")) > 0, injector.done
    figures.note("P1 requests with one end each", sum(told.values()) + asked["calls"], "requests")
    figures.note("P1 throughput under faults", wanted / took_s, "requests/s")
    for what, times in sorted({**told, **mischief, "workers restarted": stats.worker_restarts}.items()):
        figures.note(f"P1 {what}", times, "times")
