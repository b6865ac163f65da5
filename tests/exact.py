"""Networks whose device keeps exactly to its profile, and waiting requests made by hand: for tests of policies."""

from __future__ import annotations

from collections.abc import Sequence

from delen.policies.correction import Correction
from delen.policies.view import NEVER_US, Served, Waiting
from delen.tests.simulation import served


class NoCorrection(Correction):
    """Runs take what the profile says, and nothing is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = 0.0

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Nothing to learn."""


class NoHop(Served):
    """The way to the worker and back takes no time, whatever is observed."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, 0.0 if name == "hop_us" else value)


def exact(
    name: str = "net", *, segments_us: Sequence[float] = (100, 200, 400), gates: bool = False, **profile: object
) -> Served:
    """Predicted times are the device's, to a microsecond per run; a further row of a batch costs half of the first."""
    made = served(name, segments_us=segments_us, gates=gates, **profile)
    return NoHop(name, "1", made.costs, made.gates, made.batch_max, 0.0, correction=NoCorrection())


def waits(
    ticket: int,
    network: Served,
    *,
    deadline_us: int = NEVER_US,
    due_us: int | None = None,
    mandatory: int = 0,
    target: int = 2,
    bounded: bool = True,
) -> Waiting:
    """An accepted request that has not run yet."""
    return Waiting(
        ticket=ticket,
        served=network,
        arrival_us=0,
        deadline_us=deadline_us,
        due_us=deadline_us if due_us is None else due_us,
        mandatory=mandatory,
        target=target,
        bounded=bounded,
        objective="accuracy",
    )
