"""Heads are told where the channels are, through transpositions too."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from torch import Tensor, nn  # noqa: E402  (after the skip above)

from delen.exits.attaching import cuts_of  # noqa: E402
from delen.exits.feature_layout import channel_axis  # noqa: E402
from delen.tests.plain_networks import Audio, VisionTransformer, built  # noqa: E402

pytestmark = pytest.mark.slow


class Turned(nn.Module):
    """Maps with channels last between two convolutions, as some networks keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.turn, self.act, self.fc = nn.Conv2d(3, 6, 3), Turn(), nn.GELU(), nn.Linear(6, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.fc(self.act(self.turn(self.conv(images))))
        return self.last(features.mean((1, 2)))  # type: ignore[no-any-return]


class Turn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.nothing(features).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "shape", "path", "axis"),
    [
        (Audio, (400,), "encoder", 1),
        (Audio, (400,), "first", 2),
        (VisionTransformer, (3, 32, 32), "patch", 1),
        (VisionTransformer, (3, 32, 32), "blocks.1", 2),
        (Turned, (3, 8, 8), "conv", 1),
        (Turned, (3, 8, 8), "act", 3),
        (Turned, (3, 8, 8), "fc", 3),
    ],
)
def test_the_axis_of_the_channels(kind: type[nn.Module], shape: tuple[int, ...], path: str, axis: int) -> None:
    cuts = cuts_of(built(kind), torch.zeros(1, *shape))
    assert channel_axis(cuts.traced, cuts.cut_at(path).node) == axis
