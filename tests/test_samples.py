"""The shipped test images: as many as promised, unbiased, and prepared as the networks saw them in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delen.clients.info import Preprocessing
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.datasets import FASHION_DIRECTORIES, load
from delen.exits.samples import load_samples, prepare


@pytest.mark.parametrize(("name", "count", "shape"), [("fashion", 2000, (1, 28, 28)), ("digits", 360, (1, 8, 8))])
def test_samples_ship_for_each_network(name: str, count: int, shape: tuple[int, ...]) -> None:
    samples = load_samples(name)
    assert samples.images.shape == (count, *shape)
    assert samples.images.dtype == np.uint8
    assert samples.labels.dtype == np.int64
    assert set(samples.labels.tolist()) == set(range(10))
    assert load_bundle(shipped_directory() / name).manifest.input.shape == shape


@pytest.mark.slow
def test_fashion_samples_are_the_first_of_the_test_part() -> None:
    if not FASHION_DIRECTORIES[0].is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    test = load("fashion").test
    samples = load_samples("fashion")
    np.testing.assert_array_equal(samples.images, test.images[:2000])
    np.testing.assert_array_equal(samples.labels, test.labels[:2000])


@pytest.mark.slow
def test_digits_samples_are_the_test_part() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'delen[train]'")
    test = load("digits").test
    np.testing.assert_array_equal(load_samples("digits").images, test.images)


def test_prepare_follows_the_rule_channel_by_channel() -> None:
    images = np.array([[[[0, 255]], [[51, 102]]]], np.uint8)
    rule = Preprocessing(colour="rgb", scale=1 / 255, mean=(0.5, 0.2), std=(0.5, 0.1))
    np.testing.assert_allclose(prepare(images, rule), [[[[-1, 1]], [[0, 2]]]], atol=1e-6)
    assert prepare(images, rule).dtype == np.float32


@pytest.mark.slow
def test_training_and_serving_prepare_alike() -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")
    from delen.exits.recipes import RECIPES, normalise

    for name, recipe in RECIPES.items():
        images = load_samples(name).images[:50]
        rule = load_bundle(shipped_directory() / name).manifest.preprocessing
        np.testing.assert_allclose(prepare(images, rule), normalise(recipe, images).numpy(), atol=1e-6)


def test_no_samples_or_damaged_ones_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no samples ship for network 'cats'; there are: fashion, digits"):
        load_samples("cats")
    (tmp_path / "digits.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"digits\.npz is damaged"):
        load_samples("digits", tmp_path)
    np.savez(tmp_path / "digits.npz", allow_pickle=False, images=np.zeros((2, 8)), labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"digits\.npz is damaged"):
        load_samples("digits", tmp_path)
