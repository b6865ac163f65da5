"""A small transformer text encoder: token ids -> classes. BERT's architecture at its published small sizes.

State dicts of sequence classifiers in Hugging Face's keys load as they are. Exits belong after layers.

Sources: Devlin et al., NAACL'19 (architecture); Turc et al., 2019, "Well-Read Students Learn Better" (sizes: tiny,
mini, small, medium).

Does not: cut text into tokens: clients send ids, int64, 0 where the text has ended. Takes one text, not pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .zoo_transformer import TransformerLayer
from .zoo_weights import Renames, initialise, renamed

VOCABULARY, POSITIONS, EPSILON = 30522, 512, 1e-12

RENAMES: Renames = (
    (r"^bert\.", ""),
    (r"^embeddings\.position_ids$", ""),
    (r"^embeddings\.(word|position|token_type)_embeddings\.", r"embeddings.\1."),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^embeddings\.LayerNorm\.", "embeddings.norm."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.self\.(q|k|v)(uery|ey|alue)\.", r".attention.\1."),
    (r"\.attention\.output\.dense\.", ".attention.out."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".expand."),
    (r"\.output\.dense\.", ".contract."),
    (r"\.output\.LayerNorm\.", ".norm2."),
    (r"^pooler\.dense\.", "pooler."),
)


class TextEncoder(nn.Module):
    """Token ids (batch, steps), int64, up to 512 steps, 0 for padding at the end -> logits (batch, classes)."""

    def __init__(self, layers: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(width)
        self.layers = nn.Sequential(
            *(TransformerLayer(width, heads, epsilon=EPSILON, dropout=0.1, masked=True) for _ in range(layers))
        )
        self.pooler = nn.Linear(width, width)
        self.activation = nn.Tanh()
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(width, classes)
        initialise(self)

    def forward(self, ids: Tensor) -> Tensor:
        features = self.layers(self.embeddings(ids))
        return self.classifier(self.dropout(self.activation(self.pooler(features[:, 0]))))  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes Hugging Face's keys too."""
        return super().load_state_dict(renamed(state_dict, RENAMES), strict, assign)


class Embeddings(nn.Module):
    """What a token is and where it stands; padding becomes rows of zeros, as the layers expect.

    Ids outside of the vocabulary count as the nearest inside: one wrong id from a client must not stop a device.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(POSITIONS, width)
        # Trained for pairs of texts; the one text here is always the first.
        self.token_type = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids.clamp(0, VOCABULARY - 1)
        features = self.word(ids) + self.position.weight[: ids.shape[1]] + self.token_type.weight[0]
        held = ids.clamp(0, 1).unsqueeze(-1).to(features.dtype)
        return self.dropout(self.norm(features)) * held  # type: ignore[no-any-return]
