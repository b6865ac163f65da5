"""What is said to those who are not served any more: to newcomers of a daemon that ends, and to those who are cut off.

Role: the desk's words for ends that neither the core nor a tenant asked for. Does not: end anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..clients.wire import VERSION, Failure, Infer, Offer, Refusal
from .config import Limits
from .records import Effect, Ended

# How soon a daemon that ends is likely to be back, if it is to be.
BACK_MS = 1_000.0
# Memory comes back with the answers to those who wait.
SHORT_MS = 200.0
NOT_KEPT = "no request of yours with this id is running or kept"


def closing(infer: Infer) -> Refusal:
    """To a new request of a daemon that finishes what it has."""
    said = "the daemon is shutting down; ask again when it is back"
    return Refusal(VERSION, infer.id, "shutting_down", said, Offer(retry_after_ms=BACK_MS))


def short(infer: Infer, of_memory: str) -> Refusal:
    """To a new request of a daemon that has no memory for more."""
    return Refusal(VERSION, infer.id, "queue_full", of_memory, Offer(retry_after_ms=SHORT_MS))


def stranger(request_id: bytes, limits: Limits) -> Refusal:
    """To a connection without a session, or whose session was forgotten for those of others."""
    most = f"limits.sessions_max is {limits.sessions_max}, with limits.session_routes_max = {limits.session_routes_max}"
    said = f"say hello first on this connection; of those who had, the longest silent are forgotten: {most}"
    return Refusal(VERSION, request_id, "hello_required", said)


def unknown(request_id: bytes, limits: Limits, said: str = NOT_KEPT) -> Refusal:
    """To a question after a request that never was, or is not kept any more."""
    said = f"{said}; ends are kept for {limits.answer_window_ms / 1000:g} s (limits.answer_window_ms), of the latest"
    said = f"{said} {limits.answers_kept_max} (limits.answers_kept_max) and of {limits.answers_kept_bytes_max} bytes"
    said = f"{said} at most (limits.answers_kept_bytes_max)"
    return Refusal(VERSION, request_id, "unknown_id", said)


def displaced(request_id: bytes, limits: Limits) -> Refusal:
    """To a connection that waited for an end, as others do now: it will not be told, but may ask again."""
    said = f"{limits.waiting_routes_max} connections that came later wait for the end of this id"
    said = f"{said} (limits.waiting_routes_max), so this one is not told; the request goes on: fetch it later"
    return Refusal(VERSION, request_id, "displaced", said)


def with_reason(effects: Sequence[Effect], *, code: str, message: str) -> list[Effect]:
    """The same effects, with another reason wherever a request has failed."""
    return [
        replace(effect, reply=replace(effect.reply, code=code, message=message))
        if isinstance(effect, Ended) and isinstance(effect.reply, Failure)
        else effect
        for effect in effects
    ]
