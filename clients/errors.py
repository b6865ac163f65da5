"""What a client's caller may have to catch, one class per cause, and how the wire's codes become them.

Role: `error_of` turns a refusal or failure into an exception; the SDK raises a few more itself. Every error says what
was wrong and, in `hint`, what to do next; `code` is stable and is the wire's where the daemon said it.
Does not: retry, log or print.
"""

from __future__ import annotations

from .wire import Failure, Offer, Refusal

SERVE_HINT = "is a daemon running? start one of your own with: delen serve --dev"


class DelenError(Exception):
    """Any request that did not end in an answer.

    `code`: stable, see WIRE.md. `request_id`: which request, empty when none. `hint`: what to do next, may be empty.
    """

    def __init__(self, message: str, *, code: str, request_id: bytes = b"", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.hint = hint


class Refused(DelenError):
    """Not accepted; nothing was run."""


class BoundsInfeasible(Refused):
    """No plan holds these bounds now. `offer` says what would be feasible, each bound alone."""

    def __init__(self, message: str, *, offer: Offer | None = None, request_id: bytes = b"") -> None:
        said = offer is not None and any(getattr(offer, name) is not None for name in offer.__struct_fields__)
        hint = "loosen a bound as the offer says" if said else ""
        super().__init__(message, code="infeasible", request_id=request_id, hint=hint)
        self.offer = offer


class QueueFull(Refused):
    """Too much is waiting, or was asked per second, or a quota is used up. `retry_after_ms` may be None: not known."""

    def __init__(
        self, message: str, *, code: str, retry_after_ms: float | None = None, request_id: bytes = b""
    ) -> None:
        when = "later" if retry_after_ms is None else f"in {retry_after_ms:g} ms"
        super().__init__(message, code=code, request_id=request_id, hint=f"ask again {when}")
        self.retry_after_ms = retry_after_ms


class NotReady(Refused):
    """The daemon is starting, loading this network, or shutting down."""


class UnknownNetwork(Refused):
    """No such network, or not for this tenant."""


class BadRequest(Refused, ValueError):
    """The request itself is wrong: `code` tells shape, dtype, too_large, malformed, bounds or version."""


class Failed(DelenError):
    """Accepted, and could not be answered."""


class DeadlineExceeded(Failed, TimeoutError):
    """`deadline`: the bound passed and the request was to be dropped then. `timeout`: the caller's own time-out did."""


class Cancelled(Failed):
    """Taken back by its sender, or its client was closed."""


class EngineFailed(Failed):
    """The engine broke while it worked on this request; asking again is safe."""


class Unreachable(DelenError, ConnectionError):
    """Nobody answers at `endpoint`."""

    def __init__(self, message: str, *, endpoint: str, request_id: bytes = b"", hint: str = SERVE_HINT) -> None:
        super().__init__(message, code="unreachable", request_id=request_id, hint=hint)
        self.endpoint = endpoint

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.hint}"


class BadReply(DelenError):
    """The daemon said something this client cannot read: two versions that do not fit, or a bug."""

    def __init__(self, message: str, *, request_id: bytes = b"") -> None:
        hint = "compare `delen --version` with the daemon's; the two should match"
        super().__init__(message, code="bad_reply", request_id=request_id, hint=hint)


class BadFile(DelenError, ValueError):
    """A file handed to the client (picture, array, conditions) cannot be used; the text names it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="bad_file")


_REFUSALS: dict[str, type[Refused]] = {
    "not_ready": NotReady,
    "shutting_down": NotReady,
    "quarantined": NotReady,
    "unknown_network": UnknownNetwork,
    **dict.fromkeys(("shape", "dtype", "too_large", "malformed", "bounds", "version", "label"), BadRequest),
}
_FAILURES: dict[str, type[Failed]] = {
    "deadline": DeadlineExceeded,
    "cancelled": Cancelled,
    "engine": EngineFailed,
    **dict.fromkeys(("engine_memory", "output", "engine_crashed", "poison"), EngineFailed),
    "input": EngineFailed,
    "shutting_down": Failed,
}
_HINTS = {
    "not_ready": "wait for `delen ps` to show the network, then ask again",
    "shutting_down": "ask again once the daemon is back",
    "unknown_network": "`delen networks` lists those you may use",
    "adaptation": "see what holds with `delen adapt`, and the networks' energies with `delen networks`",
    "energy_unknown": "ask without energy_mj, or when `delen ps` shows the meter reading",
    "quarantined": "ask again in some seconds; `delen ps` shows the engine",
    "poison": "do not send this input again; report it to the daemon's operator",
    "input": "send finite numbers, prepared as `delen networks` says",
    "revoked": "ask the daemon's operator for a new key",
    "version": "install the daemon's version of delen here",
    "engine_crashed": "ask again; the daemon has restarted its engine",
}


def error_of(reply: Refusal | Failure) -> DelenError:
    """The exception for a request that ended in a refusal or a failure; unknown codes keep the base class."""
    code, message, request_id = reply.code, reply.message, reply.id
    if isinstance(reply, Refusal):
        if code == "infeasible":
            return BoundsInfeasible(message, offer=reply.offer, request_id=request_id)
        if code in ("queue_full", "rate", "quota", "cooling"):
            retry_after_ms = reply.offer.retry_after_ms if reply.offer else None
            return QueueFull(message, code=code, retry_after_ms=retry_after_ms, request_id=request_id)
        refused = _REFUSALS.get(code, Refused)
        return refused(message, code=code, request_id=request_id, hint=_HINTS.get(code, ""))
    failed = _FAILURES.get(code, Failed)
    return failed(message, code=code, request_id=request_id, hint=_HINTS.get(code, ""))
