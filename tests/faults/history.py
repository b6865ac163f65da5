"""What clients asked and were told, held against the promise: every accepted request has exactly one end.

Role: pure. A harness says what it does and hears, `History` finds what must not be. An id may be asked for any number
of times, on any connection: again, fetched, taken back. Then
- it has one end, an answer or an error, the same wherever and however often it is told;
- a connection hears an answer that is not marked as replayed once, and no more replies than it has asked;
- nobody hears of an id that was not asked for on this connection;
- whoever was told an end is never told later that there is none.
`finish` adds what was never told at all. Ids are numbers in rising order, so that a long run can be forgotten:
`settled_max` of those that have ended are remembered in full, of older ones only that they have.

Does not: talk to anybody, or know whether an answer is right.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from delen.clients.wire import Answer, Failure, Refusal

# Refusals that are no end: the first of one more request with a known id, the second of a fetch.
OF_ANOTHER, OF_NOBODY = "id_reused", "unknown_id"


class End(NamedTuple):
    """How a request ended. `mark`: what another run of the same request would not have the same."""

    kind: str
    mark: tuple[object, ...]


class Told:
    """One id: what was asked for it on which connection, and what came.

    `before`: what had been asked and not told when the end was.
    """

    __slots__ = ("asks", "before", "end", "fresh", "others", "refused", "replies")

    def __init__(self) -> None:
        self.asks: Counter[int] = Counter()
        self.replies: Counter[int] = Counter()
        self.before: Counter[int] = Counter()
        self.others = 0
        self.fresh: set[int] = set()
        self.end: End | None = None
        self.refused = ""


class History:
    """Everything of one tenant. `faults`: what broke the promise, in words."""

    def __init__(self, settled_max: int = 20_000) -> None:
        self.faults: list[str] = []
        self.ends: Counter[str] = Counter()
        self.open: dict[int, Told] = {}
        self._settled: OrderedDict[int, Told] = OrderedDict()
        self._settled_max = settled_max
        self._forgotten: set[int] = set()

    # ---- what a client does

    def asked(self, connection: int, number: int, *, other: bool = False) -> None:
        """A message about request `number` went out. `other`: a different request under its id."""
        told = self.open.get(number) or self._settled.get(number)
        if told is None:
            told = self.open[number] = Told()
        elif told.end is None and told.refused and number in self._settled:
            # Turned away, and tried once more.
            self.ends[f"refused: {told.refused}"] -= 1
            self.open[number] = self._settled.pop(number)
            told.refused = ""
        told.asks[connection] += 1
        told.others += other

    def known(self, number: int) -> bool:
        """Whether this id was asked for, and is remembered in full."""
        return number in self.open or number in self._settled

    # ---- what it hears

    def told(self, connection: int, number: int, reply: Answer | Failure | Refusal) -> bool:
        """A reply came; True where it is the first end of this request, or it was turned away."""
        told = self.open.get(number) or self._settled.get(number)
        if told is None:
            late = "long after its end" if number in self._forgotten else "though nobody asked"
            return self._fault(number, f"{type(reply).__name__} came {late}")
        told.replies[connection] += 1
        if not told.asks[connection]:
            return self._fault(number, "told on a connection that never asked for it")
        if told.replies[connection] > told.asks[connection]:
            return self._fault(number, f"told {told.replies[connection]} times on one connection, more than asked")
        if isinstance(reply, Refusal):
            return self._turned_away(told, connection, number, reply)
        return self._ended(told, connection, number, reply)

    def _turned_away(self, told: Told, connection: int, number: int, refusal: Refusal) -> bool:
        if refusal.code == OF_ANOTHER:
            return False if told.others else self._fault(number, "said to be another request's id, and is not")
        if told.end is not None:
            if told.before[connection] > 0:
                told.before[connection] -= 1
                return False
            return self._fault(number, f"turned away ({refusal.code}) after it had ended")
        if refusal.code == OF_NOBODY:
            return False
        first, told.refused = not told.refused, refusal.code
        return first

    def _ended(self, told: Told, connection: int, number: int, reply: Answer | Failure) -> bool:
        end = _end(reply)
        if isinstance(reply, Answer) and not reply.replayed:
            if connection in told.fresh:
                self._fault(number, "answered afresh twice on one connection")
            told.fresh.add(connection)
        if told.end is not None:
            return False if told.end == end else self._fault(number, f"has two ends: {told.end} and {end}")
        first, told.end = not told.refused, end
        # Connections overtake each other, so these may have been read before it was let in.
        told.before = told.asks - told.replies
        self.ends[end.kind] += 1
        self._settle(number)
        return first

    def _settle(self, number: int) -> None:
        self._settled[number] = self.open.pop(number)
        if len(self._settled) > self._settled_max:
            self._forgotten.add(self._settled.popitem(last=False)[0])

    def refused(self, number: int) -> None:
        """It was turned away, and everybody who could still hear of it has been heard."""
        told = self.open[number]
        self.ends[f"refused: {told.refused}"] += 1
        self._settle(number)

    # ---- the end

    def finish(self, answered: int, failed: int) -> None:
        """Nothing more will come. `answered`, `failed`: what the daemon's own books say."""
        for number, told in sorted(self.open.items()):
            if told.end is None and not told.refused:
                self._fault(number, "never ended")
        mine = self.ends["answer"], sum(self.ends.values()) - self.ends["answer"] - self.refusals
        if mine != (answered, failed):
            self.faults.append(f"{mine} answers and errors were told, {(answered, failed)} are in the daemon's books")

    @property
    def refusals(self) -> int:
        """How many requests were turned away."""
        return sum(number for kind, number in self.ends.items() if kind.startswith("refused"))

    def _fault(self, number: int, said: str) -> bool:
        self.faults.append(f"request {number} {said}")
        return False


def _end(reply: Answer | Failure) -> End:
    if isinstance(reply, Failure):
        return End(reply.code, ())
    timing = (reply.total_us, reply.queue_us, reply.compute_us, reply.batches)
    return End("answer", (reply.network_version, reply.exit, reply.label, reply.confidence, *timing))
