"""When nothing is taken any more, now and then one is tried: else nobody would ever learn that times are better."""

from __future__ import annotations

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer, Refusal
from delen.daemon.config import Limits
from delen.daemon.intake import TRIAL_US
from delen.daemon.records import ExitDone, RowDone, StepDone
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.policies.exits import asked
from delen.tests.simulation import served

BOUND = Bounds(latency_ms=5.0)


def ask(server: Server, now_us: int) -> bool:
    infer = Infer(VERSION, b"%d" % now_us, "net", TENSORS, BOUND)
    verdict, _ = server.submit(now_us, "a", infer, asked(BOUND), bytes(4))
    return not isinstance(verdict, Refusal)


def run(server: Server, now_us: int) -> int:
    """What waits is run, and takes 300 us; when that is."""
    posted = server.next(now_us)
    if posted is None:
        # It cannot be in time by what is expected, and runs when it is late.
        now_us += 5_000
        server.expire(now_us)
        posted = server.next(now_us)
    assert posted is not None
    steps = (StepDone(False, 0, 1, 100), StepDone(True, 0, 1, 10))
    rows = tuple(RowDone(row.ticket, 1, 0.5, left=True, gated=False) for row in posted.rows)
    server.advance(now_us + 300, ExitDone(posted.id, 0, rows, steps, b"", True))
    return now_us + 300


def test_a_machine_that_was_kept_busy_is_believed_to_be_free_again() -> None:
    server = Server(Limits())
    network = server.networks["net"] = served(gates=False)
    server.worker_ready(0)
    for _ in range(200):
        network.ran(30_000.0)
    now_us, tried = 10_000_000, 0
    assert ask(server, now_us), "one is tried"
    now_us = run(server, now_us)
    assert not ask(server, now_us), "but not all at once"
    while not tried or not ask(server, now_us + 1):
        now_us += TRIAL_US
        assert ask(server, now_us)
        now_us = run(server, now_us)
        tried += 1
    assert tried < 12, "some seconds, with nobody else asking"
