"""What the blocking client may ask for beside inference: networks, bounds, how it is doing, how requests went.

Role: one method per message of the wire, on top of `_ask`, which `client.Client` brings. Does not: send or wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from .asking import Asking, class_index, whole
from .inputs import adaptation_of, bounds_of
from .wire import (
    Adapt,
    Adapted,
    BoundsSet,
    Feedback,
    Manage,
    Managed,
    NetworkList,
    Networks,
    Noted,
    Reply,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    TraceList,
    Traces,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .adaptation import Adapts
    from .bounds import Bounds
    from .info import NetworkInfo
    from .inputs import AdaptArguments, BoundArguments, Conditions
    from .results import Result

Told = TypeVar("Told", bound=Reply)


class Verbs(Asking):
    """See `client.Client`."""

    def _ask(self, _expected: type[Told], kind: type[Any], *fields: Any) -> Told:
        """Send a message of this kind and wait for its reply. Raises DelenError."""
        raise NotImplementedError

    def networks(self) -> tuple[NetworkInfo, ...]:
        """The networks that this tenant may use, with what their exits cost on this device."""
        return self._ask(NetworkList, Networks).networks

    def bounds(self, **bounds: Unpack[BoundArguments]) -> Bounds:
        """Set all default bounds of this session, those left out are taken back; returns those now in force."""
        return self._ask(BoundsSet, SetBounds, bounds_of(bounds)).bounds

    def conditions(self, network: str, conditions: Conditions | None) -> None:
        """Set this session's default conditions for one network, one set or None per exit; None takes them back."""
        self._ask(BoundsSet, SetConditions, network, None if conditions is None else tuple(conditions))

    def adapt(self, policy: Adapts | None = None, **said: Unpack[AdaptArguments]) -> Adapted:
        """Have all requests of this tenant adapt from now on, by a policy and fields as in `adaptation.Adaptation`.

        `none` takes it back. Without a policy nothing is changed, and how it stands is told. Raises Refused: it cannot
        be had here, and why. BadRequest: it cannot be at all.
        """
        return self._ask(Adapted, Adapt, adaptation_of(policy, said))

    def stats(self) -> StatsReply:
        """The daemon's state and this tenant's row of its ledger."""
        pages = [self._ask(StatsReply, Stats)]
        while pages[-1].next:
            pages.append(self._ask(StatsReply, Stats, pages[-1].next))
        return whole(pages)

    def traces(self, tenant: str = "", after: int = 0) -> TraceList:
        """How a tenant's last requests went (default: this one's), those with numbers above `after`; a page of them."""
        return self._ask(TraceList, Traces, tenant, after)

    def feedback(self, request: Result | bytes, label: SupportsIndex) -> bool:
        """Tell the right label of an answer while its window is open; whether this tenant's certificates stand.

        Raises Refused: no answer of yours with this id is kept. BadRequest: there is no such class.
        """
        answered = request if isinstance(request, bytes) else request.answer.id
        return not self._ask(Noted, Feedback, answered, class_index(label)).withdrawn

    def manage(self, action: str, network: str) -> Managed:
        """Have other networks served: `add` or `swap` a bundle (name, or path at the daemon), or `remove` a network.

        Returns once that is done; requests in between are answered by what was served before. Raises Refused: you may
        not, or it cannot be done, and why; then all is served as before.
        """
        return self._ask(Managed, Manage, action, network)
