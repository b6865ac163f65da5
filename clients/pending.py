"""The future of one submitted request. A module of its own, since `concurrent.futures` is imported only when used."""

from __future__ import annotations

from concurrent.futures import Future

from .results import Result


class PendingResult(Future[Result]):
    """Ends with a Result or a DelenError. To take the request back use `Client.cancel`; `cancel` here returns False."""

    def __init__(self, request_id: bytes) -> None:
        super().__init__()
        self.request_id = request_id
        self.set_running_or_notify_cancel()
