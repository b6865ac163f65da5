"""One request as a client follows it, from its message to its end; and what its end means to the caller.

Role: `Call` is what `connection.Connection` moves and both clients wait for. Does not: send, wait, retry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .errors import DelenError
from .info import NetworkInfo
from .results import Result
from .wire import Answer, Frames, Reply, Request, Tensor


class Call(msgspec.Struct, eq=False, kw_only=True):
    """One request until it ends: with a `reply` of the kind it expects, or with an `error`. Times: see Connection."""

    message: Request
    tensors: Sequence[Tensor]
    created_us: int
    give_up_us: int
    # Of the network asked, so that an answer's label can be named.
    info: NetworkInfo | None = None
    # First and latest send; 0 while it waits to be sent.
    sent_us: int = 0
    resent_us: int = 0
    received_us: int = 0
    # A fetch stands in for the request; and: the daemon answered that it does not know the request.
    fetching: bool = False
    forgotten: bool = False
    ended: bool = False
    reply: Reply | None = None
    frames: Frames = ()
    error: DelenError | None = None
    # How the driver tells the one who waits: an event to set, or a function to call outside all locks.
    event: Any = None
    on_end: Callable[[Call], None] | None = None


def result_of(call: Call) -> Result:
    """What an ended inference gave. Raises the error it ended with."""
    if call.error is not None:
        raise call.error
    answer = call.reply
    assert isinstance(answer, Answer)
    names = call.info.classes if call.info else ()
    return Result(
        answer=answer,
        tensor=call.frames[1],
        label_name=names[answer.label] if 0 <= answer.label < len(names) else None,
        sent_us=call.sent_us,
        received_us=call.received_us,
    )


def reply_of(call: Call) -> Any:
    """The reply that ended a call, of the kind its message expects. Raises the error it ended with."""
    if call.error is not None:
        raise call.error
    return call.reply
