"""What inputs do at the exits of a network, in simulation: held-out samples, drawn again.

Role: confidence, label and rightness of every sample at every exit. Does not: draw samples, or know requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# One float of input.
PAYLOAD = b"\0\0\0\0"


def payload_of(request_id: bytes) -> bytes:
    """An input as long as that, the same for the same request only."""
    return request_id[-len(PAYLOAD) :].rjust(len(PAYLOAD), b"\0")


class Behaviour(NamedTuple):
    """Per sample and exit: calibrated confidence, whether the label is right, and whether it is the last exit's.

    Without `agrees`, labels agree where both are right or both wrong.
    """

    confidence: Sequence[Sequence[float]]
    correct: Sequence[Sequence[bool]]
    agrees: Sequence[Sequence[bool]] | None = None

    def label(self, sample: int, exit_index: int) -> int:
        """A label such that those of one sample are the same exactly where its exits agree with the last one."""
        right, last = self.correct[sample][exit_index], self.correct[sample][-1]
        agrees = right == last if self.agrees is None else self.agrees[sample][exit_index]
        return int(last) if agrees else 2 + exit_index
