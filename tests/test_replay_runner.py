"""A replayed profile answers the same for the same row, agrees with its calibration, and costs what the profile says.

That it keeps the contract of every engine is tested in test_runners.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from delen.exits.calibration_file import Calibration
from delen.exits.runner import EngineFault
from delen.profiles.costs import Costs
from delen.profiles.replay_runner import LoadedReplay, ReplayRunner
from delen.tests.sample_profile import sample_profile


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(find_bundle("digits", [shipped_directory()]))


def _images(bundle: Bundle, count: int) -> npt.NDArray[np.float32]:
    shape = (count, *bundle.manifest.input.shape)
    return (np.arange(np.prod(shape)) % 1009).astype(np.float32).reshape(shape)


def _answers(loaded: LoadedReplay, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    features, answers = loaded.place(images), []
    for index in range(3):
        features = loaded.segment(index, features)
        answers.append(loaded.head(index, features))
    return answers


def _confidence(bundle: Bundle, logits: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float64]:
    scaled = logits.astype(np.float64) / bundle.manifest.exits[index].temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    best: npt.NDArray[np.float64] = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    return best


def test_a_row_has_the_same_answers_in_any_batch_and_any_process(bundle: Bundle) -> None:
    images = _images(bundle, 8)
    together = _answers(ReplayRunner(sample_profile()).load(bundle, 8), images)
    alone = ReplayRunner(sample_profile()).load(bundle, 1)
    for row in range(8):
        for index, logits in enumerate(_answers(alone, images[row : row + 1])):
            np.testing.assert_array_equal(logits[0], together[index][row])


def test_different_rows_have_different_labels(bundle: Bundle) -> None:
    logits = _answers(ReplayRunner(sample_profile()).load(bundle, 64), _images(bundle, 64))[-1]
    assert len(set(logits.argmax(axis=1).tolist())) > 3


def test_outcomes_are_rows_of_the_calibration(bundle: Bundle) -> None:
    """Two rows of calibration: sure and right from the start, or unsure and right at the end only."""
    calibration = Calibration(
        np.array([[0.9, 0.95, 0.99], [0.3, 0.5, 0.8]], np.float32),
        np.ones((2, 3), np.bool_),
        np.array([[True, True, True], [False, False, True]]),
        np.ones(2, np.bool_),
    )
    loaded = ReplayRunner(sample_profile(), calibration=calibration).load(bundle, 64)
    answers = _answers(loaded, _images(bundle, 64))
    first, last = answers[0], answers[2]
    agrees = first.argmax(axis=1) == last.argmax(axis=1)
    assert 10 < agrees.sum() < 54, "both rows are drawn"
    for index in range(3):
        found = _confidence(bundle, answers[index], index)
        expected = np.where(agrees, calibration.confidence[0, index], calibration.confidence[1, index])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_bundles_own_calibration_is_taken(bundle: Bundle) -> None:
    calibration = bundle.calibration()
    assert calibration is not None
    loaded = ReplayRunner(sample_profile()).load(bundle, 64)
    found = _confidence(bundle, _answers(loaded, _images(bundle, 64))[0], 0)
    distances = np.abs(found[:, None] - calibration.confidence[None, :, 0]).min(axis=1)
    assert distances.max() < 1e-4


def test_without_a_calibration_agreement_follows_the_profiles_accuracies(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "calibration", lambda self: None)
    loaded = ReplayRunner(sample_profile(accuracies=(0.5, 0.9, 1.0))).load(bundle, 400)
    answers = [logits.argmax(axis=1) for logits in _answers(loaded, _images(bundle, 400))]
    shares = [float((labels == answers[2]).mean()) for labels in answers]
    assert shares[0] == pytest.approx(0.5, abs=0.08)
    assert shares[1] == pytest.approx(0.9, abs=0.05)
    right_early = answers[0] == answers[2]
    assert (answers[1] == answers[2])[right_early].all(), "what a shallow exit gets right, a better one does too"


def test_costs_are_counted_and_on_request_spent(bundle: Bundle) -> None:
    slept: list[float] = []
    runner = ReplayRunner(sample_profile(), spend=True, sleep=slept.append)
    loaded = runner.load(bundle, 8)
    costs = Costs.of(sample_profile(), 8)
    features = loaded.place(_images(bundle, 3))
    assert runner.spent_us == 0, "bringing inputs is no part of a profile"
    features = loaded.segment(0, features)
    loaded.head(0, loaded.take(features, [1]))
    assert runner.spent_us == pytest.approx(costs.segment_us[0][3] + costs.head_us[0][1])
    assert sum(slept) == pytest.approx(runner.spent_us / 1e6)


def test_counting_alone_never_waits(bundle: Bundle) -> None:
    def never(s: float) -> None:
        raise AssertionError(f"slept {s} s")

    runner = ReplayRunner(sample_profile(), sleep=never)
    _answers(runner.load(bundle, 2), _images(bundle, 2))
    assert runner.spent_us > 0


def test_spending_needs_a_way_to_wait() -> None:
    with pytest.raises(ValueError, match=r"time\.sleep"):
        ReplayRunner(sample_profile(), spend=True)


def test_a_profile_of_another_network_is_refused(bundle: Bundle) -> None:
    other = sample_profile(segments_us=(1, 2), accuracies=(0.5, 0.6))
    with pytest.raises(EngineFault, match="digits has 3 exits") as caught:
        ReplayRunner(other).load(bundle, 1)
    assert caught.value.kind == "unsupported"


def test_segments_run_in_order_only(bundle: Bundle) -> None:
    loaded = ReplayRunner(sample_profile()).load(bundle, 4)
    placed = loaded.place(_images(bundle, 1))
    with pytest.raises(EngineFault, match="segment 1 needs 1 segments run before it"):
        loaded.segment(1, placed)
    with pytest.raises(EngineFault, match="head 0 needs"):
        loaded.head(0, placed)
    with pytest.raises(EngineFault, match="cannot become one"):
        loaded.join([placed, loaded.segment(0, placed)])
