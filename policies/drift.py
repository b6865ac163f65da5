"""Has the world changed since calibration? Audits are drawn by lot, and an alarm adds up what they find.

Role: `marked` says at admission which gated requests are audited: run on to the last exit though a gate let them go.
`DriftAlarm` takes what came of each, disagreement with the last exit or, with labels from a tenant, a wrong answer, and
says when that is more than the certificate allows.
Flow: request id -> `marked` -> audit -> `observe(disagrees, bound)` -> alarm.

Sees only what it is told: disagreement does not show a shift that hurts all exits alike; labelled feedback does.
Does not: run audits, or decide what an alarm means.
"""

from __future__ import annotations

from hashlib import blake2b

# An alarm without cause at most so often in AUDITS observations; with the bound's own 0.2 % doubt, 5 % in all. With a
# twentieth of the answers audited these are 100,000 answers.
FALSE_ALARMS = 0.048
AUDITS = 5_000
# The bets are best against a rate of so many times the bound. Of 2.2, 2.6, 3 and 3.5 this found a rate of three times
# the bound within 500 audits most often: in 96 % of runs at a bound of 2.3 %, 98 % at 3 %.
SHIFT = 2.6
# No bet risks more than this of what it has: a certain loss is then never the end of it.
STAKE_MAX = 0.9
HASH_BYTES = 8


def marked(request_id: bytes, share: float, seed: int) -> bool:
    """Whether this request is drawn for audit: the same on every machine, and not to be foreseen without the seed."""
    key = seed.to_bytes(8, "little", signed=seed < 0)
    digest = blake2b(request_id, digest_size=HASH_BYTES, key=key).digest()
    return int.from_bytes(digest, "little") < share * 2.0 ** (8 * HASH_BYTES)


class DriftAlarm:
    """A sum of bets that something happens more often than its bound says, one bet per observation.

    Every observation starts a new bet of 1 and lets all earlier ones ride: `evidence = (evidence + 1) x outcome`. While
    the bounds hold, an outcome is 1 or less on average, so evidence minus observations does not grow on average, and
    evidence reaches N / beta within N observations with probability beta at most. A long clean stretch makes it no
    deafer: the bets of yesterday shrink, that of now is always 1.

    `eps`: the last observation's bound. `nu`: the stake on it, in 0..1/eps. `threshold`: evidence that raises alarm.
    Source: Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo 2022), and Doob's inequality. With the same guarantee it
    finds a shift sooner than a sum of logarithms cut off at 0 (CUSUM), which keeps only the best of these bets.
    """

    __slots__ = ("eps", "evidence", "fired", "nu", "observed", "seen", "threshold")

    def __init__(self, eps: float = 0.0, *, false_alarms: float = FALSE_ALARMS, audits: int = AUDITS) -> None:
        """`eps`: bound of observations that bring none of their own. `false_alarms`: at most, in so many `audits`."""
        self.threshold = audits / false_alarms
        self.eps, self.nu = eps, stake(eps)
        self.evidence = 0.0
        self.observed = self.seen = 0
        self.fired = False

    def observe(self, disagrees: bool, eps: float | None = None) -> bool:
        """Take in one audit; True once the alarm is raised, and from then on until `reset`.

        Args:
            eps: upper bound of the probability that this one disagrees, fixed before it was looked at.
        """
        if eps is not None and eps != self.eps:
            self.eps, self.nu = eps, stake(eps)
        self.observed += 1
        self.seen += disagrees
        self.evidence = (self.evidence + 1) * (1 + self.nu * (disagrees - self.eps))
        if self.evidence >= self.threshold:
            self.fired = True
        return self.fired

    def reset(self) -> None:
        """Start afresh: after a new calibration."""
        self.evidence, self.observed, self.seen, self.fired = 0.0, 0, 0, False


def stake(eps: float) -> float:
    """How much to bet on the next one: what grows fastest if the truth is SHIFT times the bound.

    0 where the bound allows everything: nothing can then be more often.
    """
    if not 0 < eps < 1:
        return 0.0 if eps >= 1 else STAKE_MAX / max(eps, 1e-6)
    shifted = min(SHIFT * eps, (1 + eps) / 2)
    return min((shifted - eps) / (eps * (1 - eps)), STAKE_MAX / eps)
