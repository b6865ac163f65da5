"""How a request ends: whether it is done at an exit, and the answer or failure it gets.

Role: pure functions over one `Request`; the core calls them, and nothing else makes an `Ended`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..clients.bounds import Metric
from ..clients.wire import DTYPES, LITTLE_ENDIAN, VERSION, Answer, Failure, Proof, Stop, TensorSpec
from ..policies import conditions
from ..policies.view import NEVER_US, Waiting
from .records import Ended, Request, RunFailed, Trail
from .traces import child

# Of what an engine says of its failure, so much is handed on: it may quote a whole graph.
SAID_CHARS_MAX = 1000


def decide(request: Request, now_us: int, *, kept: bool, until_us: int) -> Stop | Literal["drop"] | None:
    """After an exit: why the request stops here, or None when it goes on.

    `waiting.stage` is already one past the exit reached; `waiting.last_reached` is that exit. `kept`: its features are
    still there, so that it can go on. `until_us`: when an answer that is held for a deeper one is given (`give_up_us`).
    """
    waiting, reached = request.waiting, request.waiting.last_reached
    latency_ms = request.asked.latency_ms
    if request.asked.on_miss == "drop" and latency_ms is not None and now_us - waiting.arrival_us > latency_ms * 1000:
        return "drop"
    if request.gated:
        return "gate"
    if request.late:
        return "deadline"
    if request.asked.conditions is not None and conditions.holds(
        request.asked.conditions[reached], _metrics(request, now_us)
    ):
        return "condition"
    if reached >= waiting.target:
        return request.plan.limit
    if request.asked.energy_mj is not None and _beyond(request, request.asked.energy_mj):
        return "energy"
    if waiting.optional:
        if now_us >= until_us:
            return "deadline" if latency_ms is not None else "fairness"
        # Not kept: depth was not worth the time just now.
        return None if kept else "deadline"
    return _out_of_time(request, now_us)


def give_up_us(waiting: Waiting, hold_us: int) -> int:
    """When a request that has the answer it must have gets it: its next segment could not end in time any more."""
    if waiting.deadline_us >= NEVER_US:
        return waiting.arrival_us + hold_us
    served = waiting.served
    until_us = waiting.arrival_us + int(served.guard.hold_share * (waiting.deadline_us - waiting.arrival_us))
    next_us = served.time_us(waiting.stage, served.next_exit[waiting.stage], 1)
    return min(until_us, waiting.deadline_us - next_us)


def answer(request: Request, stop: Stop, now_us: int, *, kept: bool) -> Ended:
    """The answer of the deepest exit reached, saying what held and what did not.

    `kept`: its accuracy bound, by what the certificate has in reserve for answers forced out early; see `forced_at`.
    """
    waiting, costs = request.waiting, request.waiting.served.costs
    total_us = now_us - waiting.arrival_us
    started_us = request.started_us if request.started_us is not None else now_us
    reached = waiting.last_reached
    proof = request.plan.proof
    # At the gates or the exit it rests on, the certificate's own samples say how right that is.
    judged = proof is not None and (request.gated or reached == proof.last)
    reply = Answer(
        version=VERSION,
        id=request.id,
        network=waiting.served.name,
        network_version=waiting.served.version,
        tensors=(TensorSpec("float32", (len(request.logits) // 4,)),),
        label=request.label,
        exit=reached,
        confidence=request.confidence,
        expected_accuracy=proof.measured if proof is not None and judged else costs.accuracy[reached],
        certificate=request.plan.certificate,
        queue_us=started_us - waiting.arrival_us,
        compute_us=request.compute_us,
        total_us=total_us,
        batches=tuple(request.batches),
        energy_mj=request.energy_mj,
        energy_source=costs.charged_source,
        broken=_broken(request, total_us, kept=kept),
        stop=stop,
        proof=None if proof is None else Proof(proof.accuracy, proof.certainty, proof.n, proof.conditional),
        traceparent=child(request.infer.traceparent, request.id) if request.infer.traceparent else "",
    )
    return Ended(request.tenant, request.id, reply, request.logits, _trail(request))


def forced_at(request: Request) -> int | None:
    """The exit where something else than its gates or its plan stopped it too early; None if nothing did.

    Between two exits of the ladder it was stopped too early, however deep: such an exit is worse than one before it.
    """
    reached = request.waiting.last_reached
    fits = reached >= request.plan.mandatory and reached in request.waiting.served.ladder
    return None if request.gated or fits else reached


def failure(request: Request, code: str, message: str) -> Ended:
    """A typed error for a request that was accepted and cannot be answered."""
    return Ended(request.tenant, request.id, Failure(VERSION, request.id, code, message), b"", _trail(request))


def _trail(request: Request) -> Trail:
    return Trail(request.infer, request.waiting.arrival_us, request.started_us, request.ran)


def crashed(request: Request, retries_max: int) -> Ended:
    """The error of a request whose engine died under it once too often, or too late to run it again."""
    said = "the engine died while it ran, and there is no time to run it again"
    if request.retries > retries_max:
        said = f"the engine died {request.retries} times while it ran; limits.retries_max is {retries_max}"
    return failure(request, "engine_crashed", said)


def untried(request: Request) -> Ended:
    """The error of a request that is suspected, and could not be run without harm to others in time."""
    said = "the engine died while it ran this input, and others needed the next one all the time (limits.suspect_ms)"
    return failure(request, "engine_crashed", said)


def engine_failure(request: Request, failed: RunFailed) -> tuple[Ended, bool]:
    """The error of a request that the engine refused alone, and whether that is its input's own fault."""
    if failed.kind in ("input", "output") and not _finite(request):
        return failure(request, "input", "the input holds NaN or infinite numbers; send finite ones"), True
    code = {"input": "input", "memory": "engine_memory", "output": "output"}.get(failed.kind, "engine")
    said = failed.message[:SAID_CHARS_MAX] or "the engine does not say why"
    return failure(request, code, said), code == "input"


def _finite(request: Request) -> bool:
    """Whether all numbers of the input are; looked at only once the engine has failed on it."""
    dtype, payload = request.infer.tensors[0].dtype, request.payload
    if not dtype.startswith("float") or len(payload) % DTYPES[dtype]:
        return True
    return bool(np.isfinite(np.frombuffer(payload, LITTLE_ENDIAN[dtype])).all())


def _out_of_time(request: Request, now_us: int) -> Stop | Literal["drop"] | None:
    """Whether the next segment would end after the deadline; then what was reached must do."""
    waiting = request.waiting
    if waiting.deadline_us == NEVER_US:
        return None
    if now_us + waiting.served.time_us(waiting.stage, waiting.stage, 1) <= waiting.deadline_us:
        return None
    return "drop" if request.asked.on_miss == "drop" and waiting.last_reached < request.plan.mandatory else "deadline"


def _beyond(request: Request, most_mj: float) -> bool:
    """Whether the next segment and its head, alone, would take it over its energy: they may have become dearer.

    Where bounds were made into conditions these say when it stops: once it is over, as published.
    """
    waiting, costs = request.waiting, request.waiting.served.costs
    if request.asked.conditions is not None or request.energy_mj is None:
        return False
    if costs.segment_mj is None or costs.head_mj is None:
        return False
    return request.energy_mj + costs.segment_mj[waiting.stage][1] + costs.head_mj[waiting.stage][1] > most_mj


def _broken(request: Request, total_us: int, *, kept: bool) -> tuple[str, ...]:
    asked, broken = request.asked, []
    if asked.latency_ms is not None and total_us > asked.latency_ms * 1000:
        broken.append("latency_ms")
    if asked.accuracy is not None and not kept:
        broken.append("accuracy")
    if asked.energy_mj is not None and (request.energy_mj is None or request.energy_mj > asked.energy_mj):
        broken.append("energy_mj")
    return tuple(broken)


def _metrics(request: Request, now_us: int) -> dict[Metric, float | None]:
    """What Dělen's conditions test, in its units: seconds, shares, mJ, GMAC."""
    waiting, reached = request.waiting, request.waiting.last_reached
    gmac = waiting.served.gmac
    return {
        "response_time": (now_us - waiting.arrival_us) / 1e6,
        "confidence": request.confidence,
        "accuracy": waiting.served.costs.accuracy[reached],
        "energy": request.energy_mj,
        "computation": None if gmac is None else gmac[reached],
        "exit": float(reached),
    }
