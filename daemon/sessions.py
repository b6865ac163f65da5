"""Sessions: who said hello on which connection, and the default bounds they set.

Role: a session is (tenant, client id); it survives reconnecting for `session_kept_ms`. Pure; the desk is its only user.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import UNSET

from ..clients.bounds import Bounds, ConditionSet, merge
from ..policies.exits import Asked, asked
from .config import Limits

# How many connections each session may have at once, on average over a tenant's sessions.
ROUTES_PER_SESSION = 4


@dataclass(eq=False)
class Session:
    """Default bounds of one client, and conditions per network; both are overridden by what a request says."""

    client: str
    seen_us: int
    bounds: Bounds = field(default_factory=Bounds)
    conditions: dict[str, tuple[ConditionSet | None, ...]] = field(default_factory=dict)
    _last: _Last | None = field(default=None, repr=False)

    def asked_for(self, network: str, override: Bounds) -> Asked:
        """What a request is held to: the session's defaults with what it says itself on top."""
        default, conditions, last = self.bounds, self.conditions.get(network), self._last
        # Requests mostly ask for what the one before them asked for.
        if last and last.default is default and last.conditions is conditions and last.override == override:
            return last.asked
        bounds = default if conditions is None else merge(default, Bounds(conditions=conditions))
        self._last = _Last(default, conditions, override, asked(merge(bounds, override)))
        return self._last.asked


class _Last(NamedTuple):
    """What a session was asked for last, and what that came to."""

    default: Bounds
    conditions: tuple[ConditionSet | None, ...] | None
    override: Bounds
    asked: Asked


class Sessions:
    """All sessions of one tenant, and which connection speaks for which."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_client: dict[str, Session] = {}
        self._by_route: OrderedDict[bytes, Session] = OrderedDict()

    def find(self, route: bytes, now_us: int) -> Session | None:
        """The session that said hello on this connection, if any."""
        session = self._by_route.get(route)
        if session is not None:
            session.seen_us = now_us
            self._by_route.move_to_end(route)
        return session

    def forget(self, route: bytes) -> None:
        """Whoever speaks on this connection must say hello again."""
        self._by_route.pop(route, None)

    def open(self, client: str, route: bytes, bounds: Bounds, now_us: int) -> Session:
        """Start or resume a session. Beyond `sessions_max` the one silent for longest is forgotten.

        Commands that come and go take a session each, so a full house must not shut out the next one; a client that was
        forgotten says hello again, with its bounds.
        """
        session = self._by_client.get(client)
        expired_us = now_us - self._limits.session_kept_ms * 1000
        if session is None or session.seen_us < expired_us:
            session = Session(client, now_us)
            while client not in self._by_client and len(self._by_client) >= self._limits.sessions_max:
                del self._by_client[min(self._by_client.values(), key=lambda known: known.seen_us).client]
        self._by_client[client] = session
        session.seen_us = now_us
        session.bounds = merge(session.bounds, bounds)
        self._by_route[route] = session
        self._by_route.move_to_end(route)
        # A client that reconnects gets a new route each time; those silent for longest are forgotten.
        while len(self._by_route) > ROUTES_PER_SESSION * self._limits.sessions_max:
            self._by_route.popitem(last=False)
        return session


def shown(bounds: Bounds) -> Bounds:
    """Bounds as they stand, for an acknowledgement: what was never said stays unsaid."""
    return Bounds(**{n: v for n in Bounds.__struct_fields__ if (v := getattr(bounds, n)) not in (UNSET, None)})
