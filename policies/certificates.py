"""Accuracy that may be promised: from held-out samples to a plan for any bound, each with its certificate.

Role: built once per network at load; then `plan(accuracy, certainty)` for every bound a tenant comes up with, in
well under a millisecond and from memory the second time. Flow: calibration file -> `gate_paths.find_path` on its `fit`
rows -> counts on the others -> here: exact tests along one sequence, the cheapest of what passed.

The order of the tests, and what is tested, are fixed by the `fit` rows alone; the other rows then decide only how far
down the sequence the tests pass. So one level of doubt serves for all of them together (a fixed sequence). It holds for
a bound chosen without looking at these samples, and inputs exchangeable with them.
Does not: see inputs, choose by queue or deadline, or notice that the world has changed (`drift.py`).
Source: Learn then Test (Angelopoulos, Bates, Candès, Jordan, Lei), with the sequence of Pareto Testing (ICLR'23).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ..exits.calibration_file import Calibration
from ..profiles.costs import Costs
from . import binomial
from .gate_paths import Gates, Steps, find_path
from .gates import Candidate, CertifiedPlan, Proofs, count_candidate

# How often the bound on disagreement may be wrong; with `drift.FALSE_ALARMS`, 5 % in all. A smaller doubt costs little:
# a higher bound, but also a lower evidence to ask for.
DISAGREEMENT_DOUBT = 0.002
# Of the errors a bound allows, so much is kept free for requests that deadlines will stop early.
RESERVE_SHARE = 0.05
# Tenants may vary their bounds as they like; what is remembered of that is bounded.
PLANS_MAX = 1024
SEARCH_SAMPLES_MIN = 20
# Accuracies are offered in hundredths of a percent.
STEPS_PER_ONE = 10_000
# Under a claim that requests may be stopped early, shares of the doubt: for ways without a reserve, for ways with one,
# and for what stopping early costs, which is loose anyway.
PLAIN_DOUBT, RESERVE_DOUBT, FORCED_DOUBT = 0.6, 0.3, 0.1


class Claim(NamedTuple):
    """What is to hold. `conditional`: also among answers given at any exit or before. `deepest`: exit that may be used.

    `gated`: gates are allowed; else one exit for all. `forcible`: deadlines or energy may stop requests early.

    Answers that a forced stop breaks say so, and what is claimed is claimed of the others. Among those, more have left
    early than the samples did; so what is certified under `forcible` holds among early leavers too (`_holds_early`).
    """

    accuracy: float
    certainty: float
    conditional: bool = False
    deepest: int | None = None
    forcible: bool = False
    gated: bool = True

    @property
    def bears(self) -> bool:
        """Whether some of its answers may be stopped early without breaking it.

        Not where it is `conditional`: there they join those who left early, however few these are.
        """
        return self.forcible and not self.conditional


class Certifier:
    """Certificates of one network on one device."""

    def __init__(self, proofs: Proofs, costs: Costs) -> None:
        self.proofs = proofs
        self._times_us = {id(way): mean_us(way, costs) for way in (*proofs.gates, *proofs.fixed)}
        self._energies_mj = {id(way): _mean_mj(way, costs) for way in (*proofs.gates, *proofs.fixed)}
        # The first failure ends the tests, so what counts at a place is the most errors up to there.
        self._most_errors = {
            gated: list(accumulate((way.errors for way in self._sequence(gated)), max)) for gated in (True, False)
        }
        self._plans: dict[Claim, CertifiedPlan | None] = {}
        self._bests: dict[Claim, float] = {}

    @classmethod
    def of(cls, samples: Calibration, costs: Costs) -> Certifier:
        """Search and count. `costs.ladder` must not have been chosen on rows that are not `fit`.

        Cost: 50 ms at 10,000 samples of four exits; linear in samples.
        """
        return cls(search(samples, costs.ladder, steps_of(costs)), costs)

    def plan(
        self,
        accuracy: float,
        certainty: float,
        *,
        conditional: bool = False,
        deepest: int | None = None,
        forcible: bool = False,
        gated: bool = True,
    ) -> CertifiedPlan | None:
        """The cheapest way to leave that keeps `accuracy` at `certainty`, as `Claim` says; None where none does.

        Cost: 0.4 ms when asked first (3 ms conditional), 1 us when remembered.
        """
        claim = Claim(accuracy, certainty, conditional, deepest, forcible, gated)
        if claim not in self._plans:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[claim] = self._plan(claim)
        return self._plans[claim]

    def best(
        self,
        certainty: float,
        *,
        conditional: bool = False,
        deepest: int | None = None,
        forcible: bool = False,
        gated: bool = True,
    ) -> float:
        """The highest accuracy that `plan` would certify, down to a multiple of 0.0001; 0 where none."""
        claim = Claim(0.0, certainty, conditional, deepest, forcible, gated)
        if claim not in self._bests:
            if len(self._bests) >= PLANS_MAX:
                self._bests.clear()
            self._bests[claim] = self._best(claim)
        return self._bests[claim]

    def alone(self, exit_index: int, certainty: float) -> float:
        """The accuracy that one exit of the ladder, for all requests, is certified for by a test of its own.

        Returns:
            0 without samples to test on.
        Raises:
            KeyError: the exit is not on the ladder.
        """
        way = {way.last: way for way in self.proofs.fixed}[exit_index]
        return 1 - binomial.rate_max(way.errors, self.proofs.n, 1 - certainty) if self.proofs.n else 0.0

    def needed(self, accuracy: float, certainty: float) -> int | None:
        """Labelled samples, those to search on included, that would certify `accuracy` if errors stay as frequent.

        None where no number would: the best way measured is wrong more often than that.
        """
        proofs = self.proofs
        total = proofs.fit_n + proofs.n
        ways = [way for way in (*proofs.gates[:1], *proofs.fixed[:1]) if total]
        share = min(((sum(way.fit_wrong) + way.errors) / total for way in ways), default=1.0)
        tested = binomial.samples_needed(share, 1 - accuracy, 1 - certainty)
        return None if tested is None else math.ceil(tested * total / max(1, proofs.n))

    def _plan(self, claim: Claim) -> CertifiedPlan | None:
        ways, reserve = self._ways(claim)
        if not ways:
            return None
        # Gates that let everybody go at once cost as much as that exit alone, which promises less depth.
        return self._certified(min(ways, key=lambda way: (self._times_us[id(way)], way.last)), claim, reserve)

    def _ways(self, claim: Claim) -> tuple[Sequence[Candidate], float]:
        """All that keep the claim, and what of the accuracy is then in reserve.

        Under `forcible` the doubt is shared by the ways with a reserve, those without where there are none, and what
        stopping early costs: whichever is used, all of it together is wrong no more often than the claim allows.
        """
        if not claim.bears:
            return self._certifiable(claim, 1 - claim.accuracy, 1 - claim.certainty), 0.0
        allowed, doubt = 1 - claim.accuracy, 1 - claim.certainty
        reserve = RESERVE_SHARE * allowed
        ways = self._certifiable(claim, allowed - reserve, doubt * RESERVE_DOUBT)
        return (ways, reserve) if ways else (self._certifiable(claim, allowed, doubt * PLAIN_DOUBT), 0.0)

    def _certifiable(self, claim: Claim, allowed: float, doubt: float) -> Sequence[Candidate]:
        if not self.proofs.n or not 0 < allowed < 1 or not 0 < doubt < 1:
            return ()
        deepest = math.inf if claim.deepest is None else claim.deepest
        return [way for way in self._passed(claim, allowed, doubt) if way.last <= deepest]

    def _passed(self, claim: Claim, allowed: float, doubt: float) -> Sequence[Candidate]:
        """Everything before the first test that fails: certified all at once."""
        ways, most_errors = self._sequence(claim.gated), self._most_errors[claim.gated]
        errors_max = binomial.errors_max(self.proofs.n, allowed, doubt)
        if not (claim.conditional or claim.forcible):
            return ways[: bisect_right(most_errors, errors_max)]
        passed: list[Candidate] = []
        for way in ways:
            if not _screened(way, allowed):
                continue
            if way.errors > errors_max or not _holds_early(way, allowed, doubt):
                break
            passed.append(way)
        return passed

    def _certified(self, way: Candidate, claim: Claim, reserve: float) -> CertifiedPlan:
        ways, n = self._sequence(claim.gated), self.proofs.n
        forced: tuple[float, ...] = ()
        if claim.bears:
            # The way was chosen on these samples, so its losses must hold for all ways it was chosen from.
            doubt = (1 - claim.certainty) * FORCED_DOUBT / (len(ways) * max(1, way.last))
            forced = tuple(_forced(way, place, n, doubt) for place in range(len(way.shares)))
        return CertifiedPlan(
            thresholds=way.thresholds,
            last=way.last,
            accuracy=claim.accuracy,
            certainty=claim.certainty,
            conditional=claim.conditional,
            n=n,
            errors=way.errors,
            shares=way.shares,
            time_us=self._times_us[id(way)],
            energy_mj=self._energies_mj[id(way)],
            disagreement=binomial.rate_max(way.disagreed, way.let_go, DISAGREEMENT_DOUBT / len(ways)),
            forced=forced,
            reserve=reserve,
        )

    def _best(self, claim: Claim) -> float:
        """Mostly the first way of the sequence decides; where more must hold, a search below what that allows."""
        deepest = math.inf if claim.deepest is None else claim.deepest
        first = next(
            (place for place, way in enumerate(self._sequence(claim.gated)) if way.last <= deepest),
            None,
        )
        if first is None or not self.proofs.n:
            return 0.0
        doubt = (1 - claim.certainty) * (PLAIN_DOUBT if claim.bears else 1)
        errors = self._most_errors[claim.gated][first]
        low, high = 0, int((1 - binomial.rate_max(errors, self.proofs.n, doubt)) * STEPS_PER_ONE) + 1
        step = 1
        # Most often the bound itself is it: look there first, then further and further below.
        while high - low > 1:
            middle = max(low + 1, high - step) if step < (high - low) // 2 else (low + high) // 2
            if self._ways(claim._replace(accuracy=middle / STEPS_PER_ONE))[0]:
                low, step = middle, 1
            else:
                high, step = middle, 2 * step
        return low / STEPS_PER_ONE

    def _sequence(self, gated: bool) -> tuple[Candidate, ...]:
        return self.proofs.gates if gated else self.proofs.fixed


def search(samples: Calibration, ladder: Sequence[int], steps: Steps) -> Proofs:
    """Candidates found on the `fit` rows and in the order those give, counted on the others. `steps`: of the ladder."""
    columns, fit_count = list(ladder), int(samples.fit.sum())
    fixed = [fixed_exit(place, len(ladder)) for place in range(len(ladder))]
    path = fixed[::-1]
    if fit_count >= SEARCH_SAMPLES_MIN:
        fit = samples.fit
        found = find_path(samples.confidence[fit][:, columns], samples.correct[fit][:, columns], steps)
        # The last exit for all is as strict as can be, however good gates looked: what it keeps can always be had.
        path = [fixed[-1], *[gates for gates in found if gates != fixed[-1]]]
    counted = {gates: count_candidate(gates, ladder, samples) for gates in {*path, *fixed}}
    return Proofs(
        fit_n=fit_count,
        n=len(samples.fit) - fit_count,
        gates=tuple(counted[gates] for gates in path),
        fixed=tuple(counted[gates] for gates in reversed(fixed)),
    )


def fixed_exit(place: int, places: int) -> Gates:
    """Everybody leaves at this place of the ladder."""
    return Gates((math.inf,) * places, place)


def steps_of(costs: Costs) -> Steps:
    """Time at batch 1 between the exits of the ladder, and of their heads, us."""
    ways = [sum(costs.segment_us[k][1] for k in range(exit_index + 1)) for exit_index in costs.ladder]
    between = [way - before for way, before in zip(ways, [0.0, *ways], strict=False)]
    return Steps(tuple(between), tuple(costs.head_us[exit_index][1] for exit_index in costs.ladder))


def _screened(way: Candidate, allowed: float) -> bool:
    """Whether this way looked right on the samples of the search, at every exit and before."""
    halted, wrong = list(accumulate(way.fit_halted)), list(accumulate(way.fit_wrong))
    return all(wrong[place] <= allowed * halted[place] for place in range(way.last + 1))


def _holds_early(way: Candidate, allowed: float, doubt: float) -> bool:
    """Whether, of those that left at any exit or before, few enough are wrong, by a test each; all must pass.

    Source: ETC (Ringel et al., ICML'24); differs: wrong answers are counted, not the loss against the last exit.
    """
    halted, wrong = list(accumulate(way.halted)), list(accumulate(way.wrong))
    return all(
        _unlikely(wrong[place], halted[place], allowed, doubt)
        for place in range(way.last)
        if way.thresholds[place] < math.inf
    )


def _unlikely(errors: int, n: int, rate: float, doubt: float) -> bool:
    """Whether P(at most `errors` of `n`) at this rate is at most `doubt`; Chernoff's bound spares most exact sums."""
    if n == 0 or errors >= n * rate:
        return False
    share = errors / n
    divergence = (1 - share) * math.log((1 - share) / (1 - rate)) + (share * math.log(share / rate) if errors else 0.0)
    return n * divergence >= -math.log(doubt) or binomial.cdf(errors, n, rate) <= doubt


def _forced(way: Candidate, place: int, n: int, doubt: float) -> float:
    """Upper bound of P(wrong here, right where it would have left | no gate up to here let it go)."""
    if place >= way.last:
        return 0.0
    beyond = n - sum(way.halted[: place + 1])
    return binomial.rate_max(way.excess[place], beyond, doubt) if beyond else 1.0


def mean_us(way: Candidate, costs: Costs) -> float:
    """Device time a request takes on average at batch 1, us."""
    return _mean(way, _to_leave(way, [row[1] for row in costs.segment_us], [row[1] for row in costs.head_us]))


def _mean_mj(way: Candidate, costs: Costs) -> float | None:
    if costs.segment_mj is None or costs.head_mj is None:
        return None
    return _mean(way, _to_leave(way, [row[1] for row in costs.segment_mj], [row[1] for row in costs.head_mj]))


def _to_leave(way: Candidate, segments: Sequence[float], heads: Sequence[float]) -> list[float]:
    return Steps(tuple(segments), tuple(heads)).to_leave(Gates(way.thresholds, way.last))


def _mean(way: Candidate, costs: Sequence[float]) -> float:
    return sum(share * cost for share, cost in zip(way.shares, costs, strict=True))
