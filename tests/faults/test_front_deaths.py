"""P6: the front killed at any moment is soon back, its state is whole, and who asks again is answered once."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from statistics import median

import pytest
import zmq

from delen.clients.wire import VERSION, Answer, Failure, Hello, Infer, Refusal, Welcome, decode_reply, encode
from delen.daemon.audit_log import read_audit
from delen.daemon.keeping import AUDIT
from delen.exits import state_files
from delen.tests.faults import figures
from delen.tests.faults.asking import Asking
from delen.tests.faults.counts import count, randomness
from delen.tests.faults.history import History
from delen.tests.faults.restarting import Kept
from delen.tests.faults.traffic import SPEC, Pictures

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

WAITING = 16
# How long after its start, or after it was ready, the next kill comes at the latest.
KILL_S_MAX = 0.6
# What was on its way from a dead process has come when nothing has for so long.
QUIET_MS = 100


class Asker:
    """Somebody who asks the next life what the last one did not answer, with the same ids.

    `ends`: of all lives, so that a request answered by two of them is found.
    """

    def __init__(self, kept: Kept) -> None:
        self.ends: Counter[int] = Counter()
        self.boots: set[str] = set()
        self.again = 0
        self.faults: list[str] = []
        self.pictures = Pictures()
        self.count = 0
        self._kept = kept
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open: set[int] = set()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def meet(self) -> None:
        """A new life: say hello, and everything again that is open."""
        self._history = History()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(self._kept.endpoint("a"))
        self._socket.send_multipart(encode(Hello(VERSION, b"hello", "asker")))
        self.again += len(self._open)
        for number in sorted(self._open):
            self._send(number)

    def press(self, for_s: float) -> None:
        """Ask for so long, with a few requests always open."""
        until_s = time.monotonic() + for_s
        while (left_s := until_s - time.monotonic()) > 0:
            while len(self._open) < WAITING:
                self.count += 1
                self._open.add(self.count)
                self._send(self.count)
            self._hear(left_s)

    def part(self) -> None:
        """It is dead: take what it had sent, and no more."""
        while self._socket.poll(QUIET_MS):
            self._hear(0)
        self._socket.close(linger=0)
        self.faults += self._history.faults

    def finish(self) -> None:
        """Wait for what is open."""
        until_s = time.monotonic() + 60
        while self._open and time.monotonic() < until_s:
            self._hear(0.1)
        self.part()

    def _send(self, number: int) -> None:
        self._history.asked(0, number)
        infer = Infer(VERSION, b"%d" % number, "digits", SPEC)
        self._socket.send_multipart(encode(infer, [self.pictures.payload(number)]))

    def _hear(self, wait_s: float) -> None:
        if not self._socket.poll(int(1000 * wait_s)):
            return
        while self._socket.poll(0):
            reply = decode_reply(self._socket.recv_multipart())
            if isinstance(reply, Welcome):
                self.boots.add(reply.boot)
                continue
            assert isinstance(reply, (Answer, Failure, Refusal))
            number = int(reply.id)
            self._history.told(0, number, reply)
            if isinstance(reply, Answer):
                self.pictures.check(number, reply)
                self.ends[number] += 1
                self._open.discard(number)
            else:
                self.faults.append(f"request {number} was told {reply.code}: {reply.message}")


def test_a_front_killed_at_any_moment_is_soon_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kills, random = count("P6 kills of the front"), randomness("P6")
    ready_s: list[float] = []
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(Kept(tmp_path_factory.getbasetemp()))
        asker = stack.enter_context(Asker(kept))
        kept.up()
        asker.meet()
        user = stack.enter_context(Asking(kept.endpoint("b")))
        for _ in range(kills):
            asker.press(random.uniform(0, KILL_S_MAX))
            if random.random() < 0.3:
                kept.hang_up()
            kept.kill()
            asker.part()
            assert state_files.inspect(kept.state).faults == ()
            if random.random() < 0.2:
                # And once more before it was back.
                kept.start()
                kept.ready_within(random.uniform(0, KILL_S_MAX))
                kept.kill()
                assert state_files.inspect(kept.state).faults == ()
            since_s = time.monotonic()
            kept.up()
            ready_s.append(time.monotonic() - since_s)
            asker.meet()
        asker.press(KILL_S_MAX)
        asker.finish()
        told = user.stop()
        assert kept.end() == 0
        audit = read_audit(kept.state / AUDIT / "audit.jsonl")
    assert audit.fault == ""
    assert asker.faults == []
    assert asker.pictures.faults == []
    assert len(asker.ends) == asker.count
    assert set(asker.ends.values()) == {1}
    assert told["calls"] == told["answer"], told
    assert len(asker.boots) >= kills // 2
    figures.note_spread("P6 front killed: until READY", ready_s, "s", target=1.0)
    figures.note("P6 answered once each", len(asker.ends) + told["answer"], "requests")
    figures.note("P6 asked of a second life", asker.again, "requests")
    assert median(ready_s) < 5.0
