"""A child process that says something, line by line, read without ever waiting for it.

Role: what keeps a meter that may hang or crash away from whoever reads it: jetson-stats' client, a command, an MQTT
subscription, the daemon's own sampler. A child that ends is started again, later and later; one that is closed gets its
standard input closed, then SIGTERM, then SIGKILL.

Does not: understand lines.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

# What may be waiting unread, and how long a line may be; beyond them the child is not talking to us.
PENDING_BYTES_MAX = 1 << 17
READ_BYTES = 1 << 16
# Of what came at once, the last so many lines are taken: whoever says more does not mean each of them.
LINES_MAX = 256
BACKOFF_S_MIN, BACKOFF_S_MAX = 1.0, 60.0
# One that has run so long was sound: its end is an accident, and the next start is soon.
STEADY_S = 60.0
ENDING_S = 0.5


class Lines:
    """The lines of one command, started again when it ends."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        again_s: float | None = None,
        environment: Mapping[str, str] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`again_s`: a command that ended well is run again after so long; None: to end is to fail."""
        self.starts = 0
        self.said = ""
        self._command = list(command)
        self._again_s = again_s
        self._environment = environment
        self._clock_ns = clock_ns
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._due_ns = clock_ns()
        self._failures = 0
        self._started_ns = 0

    def take(self) -> list[str]:
        """What it has said since the last time, whole lines; starts it if it is due."""
        if self._child is None and (self._clock_ns() < self._due_ns or not self._start()):
            return []
        assert self._child is not None
        lines = self._read(self._child)
        code = self._child.poll()
        if code is not None:
            lines += self._read(self._child)
            self._ended(code)
        return lines

    @property
    def running(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def kill(self) -> None:
        """It hangs. Not waited for, since one that hangs in the kernel stays; `take` sees its end, if there is one."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End it, and do not start it again."""
        self._due_ns = 1 << 62
        child, self._child = self._child, None
        if child is None:
            return
        for step in (child.stdin.close if child.stdin else child.terminate, child.terminate, child.kill):
            step()
            try:
                child.wait(ENDING_S)
                break
            except subprocess.TimeoutExpired:
                continue
        if child.stdout is not None:
            child.stdout.close()

    def _start(self) -> bool:
        self.starts += 1
        self._rest, self._started_ns = b"", self._clock_ns()
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=None if self._environment is None else dict(self._environment),
            )
        except (OSError, ValueError) as error:
            # The latter where a word of the command holds what no argument can.
            self.said = f"{self._command[0]!r:.80}: {getattr(error, 'strerror', None) or error}"
            if isinstance(error, FileNotFoundError):
                self.said += "; install it, or say where it is"
            self._fail()
            return False
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        return True

    def _read(self, child: subprocess.Popen[bytes]) -> list[str]:
        assert child.stdout is not None
        parts = [self._rest]
        size = 0
        while size < PENDING_BYTES_MAX:
            try:
                part = os.read(child.stdout.fileno(), READ_BYTES)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
            size += len(part)
        lines = b"".join(parts).rsplit(b"\n", LINES_MAX)
        self._rest = lines.pop()
        if lines and b"\n" in lines[0]:
            # All that comes before them.
            del lines[0]
        if len(self._rest) > READ_BYTES:
            self._rest = b""
        return [line.decode(errors="replace") for line in lines]

    def _ended(self, code: int) -> None:
        assert self._child is not None
        if self._child.stdin is not None:
            self._child.stdin.close()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child = None
        if code == 0 and self._again_s is not None:
            self._due_ns = self._clock_ns() + int(self._again_s * 1e9)
            return
        self.said = f"{self._command[0]} ended with {code}"
        self._fail()

    def _fail(self) -> None:
        if self._clock_ns() - self._started_ns > STEADY_S * 1e9:
            self._failures = 0
        wait_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(self._failures, 16))
        self._failures += 1
        self._due_ns = self._clock_ns() + int(wait_s * 1e9)


def end_with_parent() -> None:
    """For such a child: once nobody listens any more this process ends, whatever its other threads are stuck in."""

    def wait() -> None:
        # Raw: at its end the interpreter would want the lock of a buffered reader that is still waiting.
        while os.read(0, READ_BYTES):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="delen-parent", daemon=True).start()
