"""What a caller gets for one answered request.

Role: the answer's record, its logits as an array where somebody looks at them, and the client's own clock readings.
Does not compute anything.
"""

from __future__ import annotations

from typing import NamedTuple

from .info import EnergySource
from .wire import Answer, Array, Certificate, Stop, Tensor, array


class Result(NamedTuple):
    """One answer.

    `answer`: everything the daemon said, see WIRE.md; what callers ask for most is repeated as properties.
    `tensor`: what `logits` shows, as it came. `label_name`: None when the network has no names.
    `sent_us`, `received_us`: this client's monotonic clock, at the first send and at the receipt.
    """

    answer: Answer
    tensor: Tensor
    label_name: str | None
    sent_us: int
    received_us: int

    @property
    def logits(self) -> Array:
        """Of the exit that answered, shape (classes,), float32, read-only. Made anew each time."""
        return array(self.answer.tensors[0], self.tensor)

    @property
    def label(self) -> int:
        """Index of the most likely class."""
        return self.answer.label

    @property
    def exit(self) -> int:
        """Which exit answered, counted from 0."""
        return self.answer.exit

    @property
    def confidence(self) -> float:
        """Calibrated probability of the label."""
        return self.answer.confidence

    @property
    def expected_accuracy(self) -> float:
        """Expected accuracy of answers given under this request's plan."""
        return self.answer.expected_accuracy

    @property
    def certificate(self) -> Certificate:
        """Whether `expected_accuracy` is certified."""
        return self.answer.certificate

    @property
    def energy_mj(self) -> float | None:
        """What this request was charged, None where unknown; `energy_source` says how it is known."""
        return self.answer.energy_mj

    @property
    def energy_source(self) -> EnergySource:
        """measured, modelled or unknown."""
        return self.answer.energy_source

    @property
    def stop(self) -> Stop:
        """Why the request stopped at this exit."""
        return self.answer.stop

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the bounds that did not hold."""
        return self.answer.broken

    @property
    def met(self) -> bool:
        """Did every bound hold, as the daemon counts?"""
        return not self.answer.broken

    @property
    def latency_us(self) -> int:
        """From this client's first send to its receipt of the answer."""
        return self.received_us - self.sent_us
