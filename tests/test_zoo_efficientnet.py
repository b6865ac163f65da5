"""Stochastic depth skips whole rows while training, and nothing afterwards."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")

from delen.exits.zoo_efficientnet import Group, InvertedResidual  # noqa: E402  (after the skip above)


def test_a_row_keeps_its_block_or_loses_all_of_it() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(Group(expand=2, kernel=3, stride=1, width=8, depth=1), 8, skip=0.5)
    images = torch.randn(64, 8, 4, 4)
    with torch.no_grad():
        change = block(images) - images
        lost = change.flatten(1).eq(0)
        assert bool((lost.all(1) | ~lost.any(1)).all())
        assert 16 < int(lost.all(1).sum()) < 48
        assert not bool((block.eval()(images) - images).flatten(1).eq(0).all(1).any())
