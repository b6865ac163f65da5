"""Dělen as released: first come, first served, one at a time, conditions tested at every exit.

Role: the rule of the released code on this core. Bounds are conditions (`reactive`): a request goes from exit to exit
until one holds, for a latency bound until that has passed, so it always ends late unless the last exit is in time. The
oldest request goes first, also after an exit, so nothing is interleaved. Differs: dominated exits are passed by, and a
request for which no condition ever holds is answered by the last exit, where the released code returns nothing.

Source: Dělen (IoTDI'23), section 4, and its released condition files.
"""

from __future__ import annotations

import msgspec

from . import rival_runs
from .pools import View
from .view import Choice


class ConditionsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to tune."""


class DelenConditions(rival_runs.AsPublished):
    """Runs the oldest request to its next exit; without bounds, to the last."""

    name = "delen-conditions"
    reactive = True

    def __init__(self, options: ConditionsOptions | None = None) -> None:
        self.options = ConditionsOptions() if options is None else options

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits. Cost: O(pools)."""
        queues = rival_runs.queues(view)
        if not queues:
            return None
        oldest = min((queue[0] for queue in queues), key=lambda waiting: waiting.ticket)
        return rival_runs.run_to([oldest], oldest.target, run_id)
