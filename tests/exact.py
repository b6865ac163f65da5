"""Networks whose device keeps exactly to its profile, and waiting requests made by hand: for tests of policies."""

from __future__ import annotations

from collections.abc import Sequence

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer, TensorSpec
from delen.daemon.device import flight_of
from delen.daemon.records import Flight, Request
from delen.policies import batches
from delen.policies.correction import Correction
from delen.policies.exits import ExitPlan, asked
from delen.policies.fairness import Share
from delen.policies.view import NEVER_US, Served, Waiting
from delen.tests.simulation import served


class NoCorrection(Correction):
    """Runs take what the profile says, and nothing is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.margin, self.factor = 0.0, 1.0

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
    return NoHop(name, "1", made.costs, made.gates, made.batch_max, 0.0, correction=NoCorrection(), guard=made.guard)


def waits(
    ticket: int,
    network: Served,
    *,
    deadline_us: int = NEVER_US,
    due_us: int | None = None,
    mandatory: int = 0,
    target: int = 2,
    bounded: bool = True,
    stage: int = 0,
    share: Share | None = None,
) -> Waiting:
    """An accepted request that has finished `stage` segments; past its mandatory exit it has the answer of the last."""
    made = Waiting(
        ticket=ticket,
        served=network,
        arrival_us=0,
        deadline_us=deadline_us,
        due_us=deadline_us if due_us is None else due_us,
        mandatory=mandatory,
        target=target,
        bounded=bounded,
        objective="accuracy",
        share=Share("a") if share is None else share,
    )
    made.move_to(stage)
    made.last_reached = stage - 1 if stage > mandatory else -1
    return made


def flight(run_id: int, *members: Waiting, stop: int = 2, start_us: int = 0) -> Flight:
    """These requests in one run as the core keeps it, each to `stop`; on `exact()` 711 us to the last exit."""
    plan, infer = ExitPlan(0, 2, None, "last_exit", "none"), Infer(VERSION, b"1", "net", (TensorSpec("float32", (1,)),))
    requests = {member.ticket: Request("a", b"1", infer, b"", asked(Bounds()), plan, member) for member in members}
    stops = [stop] * len(members)
    choice = batches.choice(run_id, members, stops, batches.run_us(members[0].served, members[0].stage, stops))
    return flight_of(choice, requests, start_us)
