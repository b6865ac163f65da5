"""Whether the certificates behind a tenant's accuracy bounds still stand, network by network.

Role: what was learnt while serving. Audits (answers run again to the last exit) and labels that tenants send feed an
alarm each; answers that deadlines or energy forced out early are paid from what the certificate holds in reserve.
Flow: `daemon/audits.py` -> `audited`; feedback -> `labelled`; every answer under a plan -> `keeps`. Once an alarm has
fired the certificate is withdrawn, for a shift does not go away by itself, nor with a restart (`withdrawn_list.py`);
a daemon that starts again with a new calibration begins anew.

Does not: choose plans or audits.
"""

from __future__ import annotations

from ..clients.info import Drift
from ..policies.drift import DriftAlarm
from ..policies.gates import CertifiedPlan

# With the audits' own share of false alarms, together less than one in twenty.
LABELS_FALSE_ALARMS = 0.002
# Tenants may vary their bounds as they like; what is remembered of that is bounded.
CLAIMS_MAX = 256


class Standing:
    """One tenant's certificates for one network."""

    def __init__(self, *, withdrawn: bool = False) -> None:
        """`withdrawn`: an alarm had fired already when the daemon began."""
        self._before = withdrawn
        self._audits = DriftAlarm()
        self._labels = DriftAlarm(false_alarms=LABELS_FALSE_ALARMS)
        self._audited = self._differed = self._skipped = 0
        self._labelled = self._wrong = 0
        # Per accuracy and certainty: what answers have brought in reserve, less what those forced out early have cost.
        self._left: dict[tuple[float, float, bool], float] = {}

    @property
    def withdrawn(self) -> bool:
        """Whether an alarm has fired: no certificate holds for these inputs any more."""
        return self._before or self._audits.fired or self._labels.fired

    def audited(self, *, differs: bool, miss_max: float) -> bool:
        """An answer was looked at again; `miss_max`: how often it may differ. True when this fires the alarm."""
        before = self.withdrawn
        self._audited += 1
        self._differed += differs
        self._audits.observe(differs, miss_max)
        return self.withdrawn and not before

    def skipped(self) -> None:
        """There was no idle time to look at an answer again."""
        self._skipped += 1

    def labelled(self, *, wrong: bool, miss_max: float | None) -> bool:
        """A tenant has told the truth; `miss_max`: how often answers may be wrong. True when this fires the alarm.

        None: the answer had no certificate, so it is counted and proves nothing.
        """
        before = self.withdrawn
        self._labelled += 1
        self._wrong += wrong
        if miss_max is not None:
            self._labels.observe(wrong, miss_max)
        return self.withdrawn and not before

    def keeps(self, plan: CertifiedPlan, forced_at: int | None) -> bool:
        """Count an answer under this plan; whether its accuracy still holds for all of them together.

        Every answer brings its own plan's reserve, since deadlines give requests with one accuracy different plans. One
        that breaks brings none: its answer says so, and the certificate is about the others.

        `forced_at`: the exit it was stopped at before its gates or its last exit; None where they decided.
        Source: ALGORITHMS of forced exits: loss <= eps + sum over exits of (share forced there) x (loss there).
        """
        key = plan.accuracy, plan.certainty, plan.conditional
        if key not in self._left and len(self._left) >= CLAIMS_MAX:
            self._left.clear()
        left = self._left.get(key, 0.0) + plan.reserve - _cost(plan, forced_at)
        if forced_at is not None and left < 0:
            return False
        self._left[key] = left
        return True

    def told(self) -> Drift:
        """For `stats`."""
        return Drift(
            withdrawn=self.withdrawn,
            audits=self._audited,
            differed=self._differed,
            skipped=self._skipped,
            labels=self._labelled,
            wrong=self._wrong,
        )


def _cost(plan: CertifiedPlan, forced_at: int | None) -> float:
    """What an answer stopped there is worse at the most; all of it where the certificate knows nothing of that exit."""
    if forced_at is None:
        return 0.0
    return plan.forced[forced_at] if plan.forced and forced_at < plan.last else 1.0
