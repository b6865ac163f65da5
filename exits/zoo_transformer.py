"""The transformer's layers, for the audio and the text encoder: attention, then two linear layers, each normed after.

Flow: features (batch, steps, width) in and out, so that a network can be cut between any two layers. Steps that hold
nothing (the padding of a short text) are rows of zeros: each layer reads its mask off them and leaves them zero, since
at a cut one tensor must carry everything.

Source: Vaswani et al., NeurIPS'17; norm after each half as in BERT and wav2vec 2.0 BASE.

Does not: know positions or what the steps are (`zoo_audio.py`, `zoo_text.py`).
"""

from __future__ import annotations

from torch import Tensor, nn

# Added to the scores of empty steps. Within float16's range, and a softmax over nothing else stays a number.
EMPTY = -1e4


class Attention(nn.Module):
    """Each step takes from all steps; as many heads as divide the width.

    Written out: the exporter makes twice the nodes of the fused one, and fails where a mask meets an open batch.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (
            part(features).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        scores = (query * self.scale) @ key.transpose(2, 3)
        if mask is not None:
            scores = scores + mask
        taken = scores.softmax(-1) @ value
        return self.out(taken.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """One layer. `masked`: some steps may be empty, that is, rows of zeros; without it every step counts."""

    def __init__(self, width: int, heads: int, *, epsilon: float, dropout: float, masked: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.expand = nn.Linear(width, 4 * width)
        self.activation = nn.GELU()
        self.contract = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, epsilon)
        self.dropout = nn.Dropout(dropout)
        self.masked = masked

    def forward(self, features: Tensor) -> Tensor:
        if not self.masked:
            return self._step(features, None)
        held = features.abs().amax(-1, keepdim=True).sign()
        mask = (1 - held).transpose(1, 2).unsqueeze(1) * EMPTY
        return self._step(features, mask) * held

    def _step(self, features: Tensor, mask: Tensor | None) -> Tensor:
        features = self.norm1(features + self.dropout(self.attention(features, mask)))
        inner = self.contract(self.activation(self.expand(features)))
        return self.norm2(features + self.dropout(inner))  # type: ignore[no-any-return]
