"""What every network is while it is PyTorch: segments in order, and one head per exit.

Recipes, the zoo and `attach` all make one of these; training, calibration and export take nothing else. The trunk is
the segments' parameters. Does not: know where segments and heads come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MultiExit(nn.Module):
    """Segments in order, one head per exit.

    Segment k takes what segment k-1 gives, one tensor, batch first; head k takes it too and gives logits, shape
    (batch, classes). `forward` gives the logits of every exit, shape (exits, batch, classes); serving runs segments
    and heads one by one.
    """

    def __init__(self, segments: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(segments) != len(heads):
            raise ValueError(f"{len(segments)} segments need as many heads, not {len(heads)}")
        self.segments = nn.ModuleList(segments)
        self.heads = nn.ModuleList(heads)

    def forward(self, inputs: Tensor) -> Tensor:
        features, logits = inputs, []
        for segment, head in zip(self.segments, self.heads, strict=True):
            features = segment(features)
            logits.append(head(features))
        return torch.stack(logits)
