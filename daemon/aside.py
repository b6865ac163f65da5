"""One thread that does what may hang: reading and writing a driver's files, one job after the other.

Role: the loop hands in a job and looks at its future later. Unlike a pool's, the thread is no reason for the process to
stay: what hangs in a driver at the end is left there. Does not: know how long a job may take (who handed it in does).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from ..profiles.board_clocks import ClockError
from .aborts import leave_aborts

Found = TypeVar("Found")


class Aside:
    """The thread, begun with its first job."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        """`wake`: called from the thread after every job."""
        self._name, self._wake = name, wake
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def submit(self, work: Callable[[], Found]) -> Future[Found]:
        """Have it done after all that was handed in before; its ClockError and OSError are the future's."""
        future: Future[Found] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except (ClockError, OSError) as error:
                future.set_exception(error)

        self._jobs.put(job)
        if self._thread is None:
            self._thread = Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        return future

    def close(self) -> None:
        """No more jobs; those handed in are done, if they can be."""
        self._jobs.put(None)

    def _serve(self) -> None:
        leave_aborts()
        while (job := self._jobs.get()) is not None:
            job()
            self._wake()
