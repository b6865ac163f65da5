"""What is counted of a way to leave is what happens, sample by sample, and a journal gives it back."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from delen.policies.gate_paths import Gates
from delen.policies.gates import Candidate, Proofs, count_candidate
from delen.tests.labelled_samples import outcomes

INF = math.inf
SAMPLES = outcomes(600, seed=3)


@pytest.mark.parametrize(
    ("gates", "ladder"),
    [
        (Gates((0.9, 0.8, INF), 2), (0, 1, 2)),
        (Gates((0.95, INF), 1), (0, 2)),
        (Gates((INF, INF, INF), 1), (0, 1, 2)),
        (Gates((0.7, INF, INF), 1), (0, 1, 2)),
    ],
)
def test_every_count_is_what_happens_sample_by_sample(gates: Gates, ladder: tuple[int, ...]) -> None:
    found = count_candidate(gates, ladder, SAMPLES)
    halted, wrong, excess, disagreed = [0] * 3, [0] * 3, [0] * 3, 0
    fit_halted, fit_wrong = [0] * 3, [0] * 3
    for row, fit in enumerate(SAMPLES.fit.tolist()):
        sure, right = SAMPLES.confidence[row], SAMPLES.correct[row]
        place = next((p for p in range(gates.last) if sure[ladder[p]] > gates.thresholds[p]), gates.last)
        left = ladder[place]
        if fit:
            fit_halted[left] += 1
            fit_wrong[left] += not right[left]
            continue
        halted[left] += 1
        wrong[left] += not right[left]
        disagreed += place < gates.last and not SAMPLES.agrees[row, left]
        for index in range(left):
            excess[index] += bool(right[left] and not right[index])
    assert (found.halted, found.wrong, found.excess) == (tuple(halted), tuple(wrong), tuple(excess))
    assert (found.fit_halted, found.fit_wrong) == (tuple(fit_halted), tuple(fit_wrong))
    assert (found.disagreed, found.last) == (disagreed, ladder[gates.last])
    assert found.let_go == sum(halted) - halted[found.last]
    assert found.shares == pytest.approx(((np.array(halted) + np.array(fit_halted)) / 600).tolist())
    assert [found.thresholds[index] for index in ladder] == list(gates.thresholds)
    assert found.gated == any(threshold < INF for threshold in gates.thresholds)


def test_a_journal_gives_back_exactly_what_it_was_given() -> None:
    ways = tuple(count_candidate(Gates((t, t, INF), 2), (0, 1, 2), SAMPLES) for t in (0.9, 0.8))
    proofs = Proofs(300, 300, ways, ways[:1])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(proofs), type=Proofs) == proofs
    assert isinstance(proofs.gates[0], Candidate)
