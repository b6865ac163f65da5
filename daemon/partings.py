"""What is said to those who are not served any more: to newcomers of a daemon that ends, and to those who are cut off.

Role: the desk's words for ends that neither the core nor a tenant asked for. Does not: end anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..clients.wire import VERSION, Failure, Infer, Offer, Refusal
from .records import Effect, Ended

# How soon a daemon that ends is likely to be back, if it is to be.
BACK_MS = 1_000.0
# Memory comes back with the answers to those who wait.
SHORT_MS = 200.0


def closing(infer: Infer) -> Refusal:
    """To a new request of a daemon that finishes what it has."""
    said = "the daemon is shutting down; ask again when it is back"
    return Refusal(VERSION, infer.id, "shutting_down", said, Offer(retry_after_ms=BACK_MS))


def short(infer: Infer, of_memory: str) -> Refusal:
    """To a new request of a daemon that has no memory for more."""
    return Refusal(VERSION, infer.id, "queue_full", of_memory, Offer(retry_after_ms=SHORT_MS))


def with_reason(effects: Sequence[Effect], *, code: str, message: str) -> list[Effect]:
    """The same effects, with another reason wherever a request has failed."""
    return [
        replace(effect, reply=replace(effect.reply, code=code, message=message))
        if isinstance(effect, Ended) and isinstance(effect.reply, Failure)
        else effect
        for effect in effects
    ]
