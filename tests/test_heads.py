"""Heads take every kind of features, stay small, and give logits."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from delen.exits.heads import HEAD_KINDS, HeadKind, make_head  # noqa: E402  (after the skip above)

SHAPES = [((16,), None), ((197, 24), None), ((24, 400), 1), ((16, 32, 32), None), ((16, 7, 9), None), ((1, 1, 8), 3)]


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_a_head_gives_logits_for_every_kind_of_features(
    kind: HeadKind, shape: tuple[int, ...], axis: int | None
) -> None:
    head = make_head(kind, shape, 5, channel_axis=axis)
    assert head(torch.randn(3, *shape)).shape == (3, 5)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_head_does_not_grow_with_the_picture(kind: HeadKind) -> None:
    small, large = (make_head(kind, (16, side, side), 10) for side in (32, 128))
    assert [value.shape for value in small.parameters()] == [value.shape for value in large.parameters()]


def test_pool_is_a_linear_layer_on_the_mean_of_all_positions() -> None:
    head = make_head("pool", (4, 6, 7), 3).eval()
    features = torch.randn(2, 4, 6, 7)
    standardised = features.mean((2, 3)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(head(features), list(head.children())[-1](standardised))


def test_a_grid_that_does_not_divide_the_picture_covers_all_of_it() -> None:
    head = make_head("linear", (1, 7, 7), 2)
    features = torch.zeros(1, 1, 7, 7, requires_grad=True)
    next(head.children())(features).sum().backward()
    assert bool((features.grad > 0).all())


@pytest.mark.parametrize(
    ("kind", "shape", "classes", "words"),
    [
        ("conv", (4,), 3, "no head 'conv'; there are linear, pool, mlp"),
        ("pool", (4, 3, 2, 1), 3, r"no head from features \(4, 3, 2, 1\)"),
        ("pool", (4,), 0, "to 0 classes"),
    ],
)
def test_what_no_head_can_take_is_refused(kind: HeadKind, shape: tuple[int, ...], classes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_head(kind, shape, classes)
