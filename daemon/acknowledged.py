"""A change of what is served is acknowledged once it is on the disk: listed, and in the audit log.

Role: stands between what `change.py` says is done and its sending. Does not: take a change back that could not be
written down; who ordered it is told that it holds until the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..clients.wire import VERSION, Managed, Refusal
from ..exits.bundle import Bundle
from .desk import Outgoing
from .keeping import Keeping
from .served_list import listed

Send = Callable[[Sequence[Outgoing]], None]


def once_audited(
    keeping: Keeping, outgoing: Sequence[Outgoing], bundles: Callable[[], Iterable[Bundle]], send: Send
) -> None:
    """Send these, `Managed` only when the change is on the disk. `bundles`: what is served to everybody now."""
    for message in outgoing:
        if not isinstance(message.reply, Managed):
            send([message])
            continue
        about = {"network": message.reply.network, "version": message.reply.network_version}
        # One thread writes in this order: once the line is there, so is the list.
        keeping.serve(listed(bundles()))
        keeping.record(f"tenant {message.tenant}", "networks changed", about, partial(_tell, message, send))


def _tell(message: Outgoing, send: Send, fault: str) -> None:
    if fault:
        said = f"it is served until the next start, but cannot be written to the audit log: {fault}"
        message = message._replace(reply=Refusal(VERSION, message.reply.id, "bundle", said))
    send([message])
