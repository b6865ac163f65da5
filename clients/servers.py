"""Which of the addresses in its key file a client asks at: the first where somebody answers.

Role: while a daemon changes its key it is at two addresses, known by one key at each, and a key file may name both.
`Servers` says when to turn to the next of them: when nobody has said anything for a while to somebody who waits. Pure.
Does not: connect (asking.py), or weigh one against another.
"""

from __future__ import annotations

from collections.abc import Sequence

from .keys import Server

# A wrong key is answered with silence. Who was welcomed here before is given longer than two hellos take.
PATIENCE_US, PATIENCE_US_WELCOME = 1_000_000, 5_000_000


class Servers:
    """In the order of the key file, from the first."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = tuple(servers)
        self._place = 0
        self._turned_us = 0

    @property
    def current(self) -> Server:
        return self._servers[self._place]

    def turn(self, now_us: int, silent_since_us: int | None, *, welcome: bool) -> bool:
        """Whether to go to the next one, which is `current` then.

        Args:
            silent_since_us: since when somebody waits and nothing was heard; None: nobody waits.
            welcome: whether this client has ever been welcomed.
        """
        if len(self._servers) < 2 or silent_since_us is None:
            return False
        patience_us = PATIENCE_US_WELCOME if welcome else PATIENCE_US
        if now_us - max(silent_since_us, self._turned_us) < patience_us:
            return False
        self._place = (self._place + 1) % len(self._servers)
        self._turned_us = now_us
        return True
