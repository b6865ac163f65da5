"""Do certificates hold as often as they say? Many calibration sets are drawn, and each plan is judged by the truth.

Role: `delen bench certificates`. The pool of labelled outcomes is taken for the world: a set drawn from it with
replacement is a calibration, and a plan's accuracy over the pool is what it really delivers. Flow: `bench_certificates`
-> per kind of certificate how many were made, how many broke and what they cost; `bench_drift` -> alarms without cause,
and how soon one with cause comes.

Does not: run a network, or make a random generator; one is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..exits.calibration_file import Calibration
from ..profiles.costs import Costs
from .certificates import Certifier, mean_us, search, steps_of
from .drift import AUDITS, FALSE_ALARMS, stake
from .gate_paths import Gates, Steps
from .gates import Candidate, CertifiedPlan, Proofs

# As `delen calibrate` divides its samples.
FIT_SHARE = 1 / 3
# Detection is looked for so long, after a shift to so many times the bound.
DETECT_WITHIN, SHIFTED = 500, 3.0


class Task(NamedTuple):
    """What is asked of every set: `size` samples each, `sets` of them, and the bound they must certify."""

    accuracy: float
    certainty: float = 0.9
    sets: int = 1000
    size: int = 10_000


class Kept(msgspec.Struct, frozen=True):
    """One kind of certificate over all sets. `made`: sets that certified a plan; `broken`: of those, how many had less.

    `broken_share`: of all sets; `allowed`: 1 - certainty and two standard errors. `accuracy`: on average, on the pool.
    `cost`, `of_fixed`: mean time per request, of running to the end, and of the fixed exit that the same set certified.
    """

    kind: str
    made: int
    broken: int
    broken_share: float
    allowed: float
    accuracy: float
    cost: float
    of_fixed: float | None


class Judged(NamedTuple):
    """One plan over the pool: the lowest accuracy its certificate speaks of; its mean time, of running to the end."""

    accuracy: float
    cost: float


class _World:
    """The pool as the truth, for plans by exits of the network."""

    def __init__(self, pool: Calibration, costs: Costs) -> None:
        self.pool = pool
        self.costs = costs
        self.ladder = list(costs.ladder)
        self._rows = np.arange(len(pool.correct))
        self._full_us = costs.path_us(0, costs.ladder[-1], 1)
        self._steps = Steps(tuple(row[1] for row in costs.segment_us), tuple(row[1] for row in costs.head_us))

    def judge(self, plan: CertifiedPlan | Candidate, *, conditional: bool = False) -> Judged:
        leaves = self.leaves(plan)
        right = self.pool.correct[self._rows, leaves]
        accuracy = float(right.mean())
        if conditional:
            gated = [index for index in range(plan.last) if plan.thresholds[index] < math.inf]
            early = [float(right[leaves <= index].mean()) for index in gated if bool((leaves <= index).any())]
            accuracy = min([accuracy, *early])
        return Judged(accuracy, self._cost(plan, leaves))

    def judge_forced(self, plan: CertifiedPlan) -> Judged:
        """At the worst exit, as many requests stopped as the plan says it bears: by lot among those still there."""
        leaves = self.leaves(plan)
        right = self.pool.correct[self._rows, leaves]
        accuracy = worst = float(right.mean())
        for index in range(plan.last):
            beyond = leaves > index
            if plan.forced[index] <= 0 or not beyond.any():
                continue
            stopped = min(plan.reserve / plan.forced[index], float(beyond.mean()))
            lost = float(right[beyond].mean()) - float(self.pool.correct[beyond, index].mean())
            worst = min(worst, accuracy - stopped * lost)
        return Judged(worst, self._cost(plan, leaves))

    def judge_naive(self, proofs: Proofs, accuracy: float) -> Judged | None:
        """What is commonly done: the cheapest gates that were accurate enough on the samples at hand, all of them."""
        total = proofs.fit_n + proofs.n
        enough = [way for way in proofs.gates if sum(way.fit_wrong) + way.errors <= (1 - accuracy) * total]
        return self.judge(min(enough, key=lambda way: mean_us(way, self.costs))) if enough else None

    def disagreement(self, plan: CertifiedPlan) -> float:
        """Of the answers that a gate lets go, how many are not the last exit's; 0 where none does."""
        leaves = self.leaves(plan)
        gated = leaves < plan.last
        return 1 - float(self.pool.agrees[self._rows, leaves][gated].mean()) if gated.any() else 0.0

    def leaves(self, plan: CertifiedPlan | Candidate) -> npt.NDArray[np.intp]:
        """The exit each outcome of the pool leaves at."""
        gates = Gates(tuple(plan.thresholds[index] for index in self.ladder), self.ladder.index(plan.last))
        leaves: npt.NDArray[np.intp] = np.array(self.ladder)[gates.leaves(self.pool.confidence[:, self.ladder])]
        return leaves

    def _cost(self, plan: CertifiedPlan | Candidate, leaves: npt.NDArray[np.intp]) -> float:
        spent = np.array(self._steps.to_leave(Gates(plan.thresholds, plan.last)))[leaves]
        return float(spent.mean()) / self._full_us


def bench_certificates(
    pool: Calibration, costs: Costs, task: Task, random: np.random.Generator, on_progress: Callable[[int], None]
) -> list[Kept]:
    """Draw sets, certify, judge.

    Args:
        pool: every labelled outcome there is; its `fit` is not looked at.
        on_progress: told how many sets are done.
    Cost: 0.1 s per set of 10,000 samples of four exits, most of it the search for gates.
    """
    world = _World(pool, costs)
    found: dict[str, list[Judged | None]] = {}
    for done in range(task.sets):
        drawn = random.integers(0, len(pool.correct), task.size)
        fit = np.arange(task.size) < int(task.size * FIT_SHARE)
        samples = Calibration(pool.confidence[drawn], pool.correct[drawn], pool.agrees[drawn], fit)
        for kind, judged in _judge_set(world, search(samples, costs.ladder, steps_of(costs)), task):
            found.setdefault(kind, []).append(judged)
        on_progress(done + 1)
    return [_kept(kind, judged, found["fixed exit"], task) for kind, judged in found.items()]


def _judge_set(world: _World, proofs: Proofs, task: Task) -> Iterator[tuple[str, Judged | None]]:
    """Every kind of certificate from one set; None where it certifies nothing."""
    certifier = Certifier(proofs, world.costs)
    asked = (task.accuracy, task.certainty)
    fixed, gates = certifier.plan(*asked, gated=False), certifier.plan(*asked)
    yield "fixed exit", None if fixed is None else world.judge(fixed)
    yield "gates", None if gates is None else world.judge(gates)
    conditional = certifier.plan(*asked, conditional=True)
    yield "conditional gates", None if conditional is None else world.judge(conditional, conditional=True)
    forcible = certifier.plan(*asked, forcible=True)
    yield "gates, forced exits", None if forcible is None else world.judge_forced(forcible)
    yield "naive thresholds", world.judge_naive(proofs, task.accuracy)


def _kept(kind: str, judged: list[Judged | None], fixed: list[Judged | None], task: Task) -> Kept:
    made = [one for one in judged if one is not None]
    broken = sum(one.accuracy < task.accuracy for one in made)
    both = [(one.cost, other.cost) for one, other in zip(judged, fixed, strict=True) if one and other]
    doubt = 1 - task.certainty
    return Kept(
        kind=kind,
        made=len(made),
        broken=broken,
        broken_share=broken / task.sets,
        allowed=doubt + 2 * math.sqrt(doubt * (1 - doubt) / task.sets),
        accuracy=sum(one.accuracy for one in made) / max(1, len(made)),
        cost=sum(one.cost for one in made) / max(1, len(made)),
        of_fixed=sum(one / other for one, other in both) / len(both) if both else None,
    )


class DriftKept(msgspec.Struct, frozen=True):
    """One way to raise alarms. `bound`: of disagreement; `truth`: what it is without a shift, on the pool.

    `false_at_truth`, `false_at_bound`: share of runs with an alarm in `audits` clean audits. `fresh`, `after_clean`: of
    runs in which a shift to three times the bound is found within 500 audits, at once and after `audits` clean ones;
    `delay_p50`: how many it takes then, where it is found.
    """

    kind: str
    bound: float
    truth: float
    audits: int
    false_at_truth: float
    false_at_bound: float
    fresh: float
    after_clean: float
    delay_p50: float | None


def bench_drift(
    pool: Calibration, costs: Costs, plan: CertifiedPlan, runs: int, random: np.random.Generator
) -> list[DriftKept]:
    """Alarms of `DriftAlarm`, of a CUSUM with the same guarantee, and of a running product, which goes deaf."""
    found = []
    bound, truth = plan.disagreement, _World(pool, costs).disagreement(plan)
    shifted = min(0.99, SHIFTED * bound)
    for kind in ("evidence", "cusum", "product"):
        bets = _Bets(kind, bound, runs, random)
        clean = bets.alarms_at(truth, AUDITS)
        later = bets.alarms_at(shifted, DETECT_WITHIN)
        delays = later[(later > 0) & (clean == 0)]
        late = float((delays > 0).sum() / max(1, int((clean == 0).sum())))
        fresh = _Bets(kind, bound, runs, random).alarms_at(shifted, DETECT_WITHIN)
        at_bound = _Bets(kind, bound, runs, random).alarms_at(bound, AUDITS)
        found.append(
            DriftKept(
                kind=kind,
                bound=bound,
                truth=truth,
                audits=AUDITS,
                false_at_truth=float((clean > 0).mean()),
                false_at_bound=float((at_bound > 0).mean()),
                fresh=float((fresh > 0).mean()),
                after_clean=late,
                delay_p50=float(np.median(delays)) if delays.size else None,
            )
        )
    return found


class _Bets:
    """Many runs of one kind of alarm at once, in logarithms but for the evidence."""

    def __init__(self, kind: str, bound: float, runs: int, random: np.random.Generator) -> None:
        self._kind, self._bound, self._random = kind, bound, random
        self._nu = stake(bound)
        self._level = np.zeros(runs)
        goal = AUDITS / FALSE_ALARMS
        # A product starts once, so it needs no allowance for all the places where it might have started.
        self._goal = {"evidence": goal, "cusum": math.log(goal), "product": -math.log(FALSE_ALARMS)}[kind]

    def alarms_at(self, rate: float, audits: int) -> npt.NDArray[np.int64]:
        """Per run, the audit that raised the alarm, from 1; 0 where none did."""
        raised = np.zeros(len(self._level), np.int64)
        for audit in range(1, audits + 1):
            factor = 1 + self._nu * ((self._random.random(len(self._level)) < rate) - self._bound)
            if self._kind == "evidence":
                self._level = (self._level + 1) * factor
            elif self._kind == "cusum":
                self._level = np.maximum(0, self._level) + np.log(factor)
            else:
                self._level = self._level + np.log(factor)
            hits = (self._level >= self._goal) & (raised == 0)
            raised[hits] = audit
        return raised
