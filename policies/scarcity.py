"""What a microsecond of the device is worth just now: the depth that was forgone for want of it.

Role: the price of time, in accuracy per microsecond, common to all networks. Each answer given shallower than its
tenant could have had it moves the price up towards what its next step would have gained; while none is, the price
fades. What gains less than the price is not worth starting while others wait: it costs somebody more than it gives.

Source: shadow prices of a shared resource (Kelly, Maulloo, Tan 1998); differs: moved by what was lost, not by a queue.
Does not: decide anything; policies look at the price.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..clients.wire import Answer, Failure
from .view import NEVER_US, Waiting

# The part of the way the price goes with each loss, and how fast it fades. Scenarios e1, e2, e9 and e11 are the same
# within their intervals from 0.02 to 0.2 and from 50 to 300 ms.
GAIN, FADE_US = 0.05, 50_000.0


@dataclass(slots=True)
class Scarcity:
    """The price of time. It only moves forward: `now_us` never falls."""

    _price: float = 0.0
    _since_us: int = 0

    def price(self, now_us: int) -> float:
        """Accuracy per microsecond; 0 while everybody gets all they could have."""
        return self._price and self._price * math.exp((self._since_us - now_us) / FADE_US)

    def ended(self, waiting: Waiting, reply: Answer | Failure) -> None:
        """Note an end; it counts where only time kept the answer from going deeper."""
        if not isinstance(reply, Answer) or reply.stop != "deadline" or waiting.deadline_us >= NEVER_US:
            return
        if not waiting.optional or waiting.spare or waiting.stage > waiting.target:
            return
        served = waiting.served
        step = served.step(waiting.stage, served.batch_useful[served.next_exit[waiting.stage]])
        lost = rate_at_best(waiting, step.stop)
        now_us = waiting.arrival_us + reply.total_us
        price = self.price(now_us)
        self._price, self._since_us = price + GAIN * max(0.0, lost - price), now_us


def rate_at_best(waiting: Waiting, stop: int) -> float:
    """What going on to this exit gains per microsecond in a batch of useful size."""
    served, accuracy = waiting.served, waiting.served.costs.accuracy
    batch = served.batch_useful[stop]
    at_hand = accuracy[waiting.last_reached] if waiting.last_reached >= 0 else 0.0
    takes_us = served.hop_us + served.costs.path_us(waiting.stage, stop, batch) * served.correction.mu
    return (accuracy[stop] - at_hand) * batch / takes_us
