"""What the daemon tells its service manager: that it is ready, what it is doing, that it still works.

Role: systemd's notification protocol (sd_notify(3)): one datagram per message, `KEY=value` lines, to the socket that
$NOTIFY_SOCKET names. Where none is named, everything here does nothing, so the daemon is the same with and without.
Does not: decide what is said (`lifecycle.py`), wait, or fail: what the manager misses is said again with the next
change, and a watchdog message that is lost was one of four.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import MutableMapping

# A line for `systemctl status`; what is longer would be cut there.
STATUS_CHARS_MAX = 240


class Notifier:
    """The way to the service manager, or to nobody.

    `watchdog_us`: within which time it wants to hear `alive`; None: never.
    """

    def __init__(self, address: str = "", watchdog_us: int | None = None) -> None:
        """`address`: a path, or an abstract name after an `@`; empty: nobody listens."""
        self.watchdog_us = watchdog_us
        self._status = ""
        self._socket: socket.socket | None = None
        if address:
            # An abstract name is written with an `@` in the environment and is a zero byte to the kernel.
            self._address = "\0" + address[1:] if address.startswith("@") else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> Notifier:
        """As $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID say, which are taken out: no child of ours is meant.

        Args:
            pid: of this process; a watchdog for another is none of its business.
        """
        address, said, meant = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        # Only AF_UNIX: newer managers in virtual machines may name a vsock, which no unit of ours asks for.
        address = address if address[:1] in ("/", "@") and len(address) > 1 else ""
        ours = said.isdigit() and int(said) > 0 and meant in ("", str(pid))
        return cls(address, int(said) if ours else None)

    @property
    def listening(self) -> bool:
        """Whether anybody is told."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """All is served. Said again after a reload, whether it changed anything or not."""
        self._send("READY=1", self._changed(status))

    def status(self, text: str) -> None:
        """What `systemctl status` shows; said when it differs from the last."""
        changed = self._changed(text)
        if changed:
            self._send(changed)

    def extend(self, granted_us: int) -> None:
        """Starting takes longer: not to be given up for so long."""
        self._send(f"EXTEND_TIMEOUT_USEC={granted_us}")

    def patience(self, watchdog_us: int | None) -> None:
        """Until said again, a sign of life is due within this time, not the configured one; None: that one."""
        if self.watchdog_us is not None:
            self._send(f"WATCHDOG_USEC={self.watchdog_us if watchdog_us is None else watchdog_us}")

    def reloading(self, now_us: int) -> None:
        """The configuration is read again. `now_us`: monotonic, by which newer managers tell reloads apart."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", self._changed(status))

    def alive(self) -> None:
        """Everything works; only to be said when that has been looked at."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _changed(self, status: str) -> str:
        """The line for a status that differs from the last one told, else nothing."""
        status = " ".join(status.split())[:STATUS_CHARS_MAX]
        if status == self._status:
            return ""
        self._status = status
        return f"STATUS={status}"

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(line for line in lines if line)
        # A manager that is being replaced or is busy: nobody's requests wait for it.
        with contextlib.suppress(OSError):
            self._socket.sendto(message.encode(), self._address)
