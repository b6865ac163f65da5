"""Sessions: who said hello on which connection, and the default bounds they set.

Role: a session is (tenant, client id); it survives reconnecting for `session_kept_ms`. Pure; the desk is its only user.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import UNSET

from ..clients.bounds import Bounds, ConditionSet, merge
from ..clients.info import NetworkInfo
from ..clients.wire import VERSION, BoundsSet, Refusal, SetBounds, SetConditions
from ..policies.exits import Asked, asked
from .config import Limits


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

    def set(self, message: SetBounds | SetConditions, networks: Sequence[NetworkInfo]) -> BoundsSet | Refusal:
        """Take these defaults from now on; `networks`: that its tenant may use."""
        if isinstance(message, SetBounds):
            # The whole of the session's bounds: what is left out is taken back, and whoever spoke last is obeyed.
            self.bounds = message.bounds
            if isinstance(message.bounds.accuracy, float) or isinstance(message.bounds.energy_mj, float):
                self.conditions.clear()
            return BoundsSet(VERSION, message.id, shown(self.bounds))
        network = next((network for network in networks if network.name == message.network), None)
        if network is None:
            return Refusal(VERSION, message.id, "unknown_network", f"no network {message.network!r:.80}")
        if message.conditions is None:
            self.conditions.pop(message.network, None)
        elif len(message.conditions) != len(network.exits):
            said = f"conditions for {len(message.conditions)} exits; {network.name} has {len(network.exits)}"
            return Refusal(VERSION, message.id, "bounds", said)
        else:
            self.conditions[message.network] = message.conditions
        return BoundsSet(VERSION, message.id, shown(self.bounds))


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
        while len(self._by_route) > self._limits.session_routes_max * self._limits.sessions_max:
            self._by_route.popitem(last=False)
        return session


def shown(bounds: Bounds) -> Bounds:
    """Bounds as they stand, for an acknowledgement: what was never said stays unsaid."""
    return Bounds(**{n: v for n in Bounds.__struct_fields__ if (v := getattr(bounds, n)) not in (UNSET, None)})
