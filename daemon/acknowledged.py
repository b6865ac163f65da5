"""What an operator changes is acknowledged once it is on the disk: networks listed, and either in the audit log.

Role: stands between what `change.py` or `reload.py` says is done and who is told so. Does not: take a change back that
could not be written down; who ordered it is told that it holds until the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..clients.wire import VERSION, Managed, Refusal
from ..exits.bundle import Bundle
from .desk import Outgoing
from .keeping import Keeping
from .log_writer import Log
from .reload import Reloaded
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
        who, then = f"tenant {message.tenant}", partial(_tell, message, send)
        keeping.record(who, "networks changed", about, then, served=listed(bundles()))


def once_written(keeping: Keeping, reloaded: Reloaded, note: Log, ready: Callable[[], None]) -> None:
    """Tell operator and service manager (`ready`) how a reload went, when the audit log has it."""
    keeping.record("operator", "reload", {"taken": reloaded.taken}, partial(_tell_reloaded, reloaded, note, ready))


def _tell_reloaded(reloaded: Reloaded, note: Log, ready: Callable[[], None], fault: str) -> None:
    note(reloaded.said, level="info" if reloaded else "error", key=reloaded.key)
    if fault:
        said = f"the reload could not be written to the audit log: {fault}"
        note(said, level="error", key=f"{reloaded.key}, not audited")
    ready()


def _tell(message: Outgoing, send: Send, fault: str) -> None:
    if fault:
        said = f"it is served until the next start, but cannot be written to the state directory: {fault}"
        message = message._replace(reply=Refusal(VERSION, message.reply.id, "bundle", said))
    send([message])
