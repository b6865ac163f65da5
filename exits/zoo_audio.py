"""A wav2vec 2.0-style audio encoder: raw waveform -> 1-d convolutions -> transformer -> classes.

Two sizes of one architecture. `wav2vec2-base` is the published BASE, 94 M parameters: state dicts of sequence
classifiers in Hugging Face's keys load as they are. `wav2vec2-edge`, 7 M, is sized for a board: one second costs 0.45
GMAC instead of 6.9. Its convolutions start narrow and widen as the sequence shortens, since at equal widths they
would cost more than all layers after them, before any exit can answer. One frame is 25 ms long and 20 ms after the
last. Exits belong after layers of the transformer.

Sources: Baevski et al., NeurIPS'20 (architecture, sizes); Wu et al., ICASSP'22, SEW (convolutions that widen).

Does not: mask for pre-training, quantise, or take recordings of several lengths in one batch: pad or cut them, and
bring each to mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .zoo_transformer import TransformerLayer
from .zoo_weights import Renames, initialise, renamed

# Baevski et al., section 4.2: 320 samples from one frame to the next, 400 in each.
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
POSITION_KERNEL, POSITION_GROUPS = 128, 16
EPSILON = 1e-5


class AudioSize(NamedTuple):
    """Channels of the seven convolutions; width, heads and number of the transformer's layers; width before classes."""

    convolutions: tuple[int, ...]
    width: int
    heads: int
    layers: int
    projected: int


BASE = AudioSize((512,) * 7, 768, 12, 12, 256)
EDGE = AudioSize((64, 64, 128, 128, 256, 256, 256), 256, 4, 8, 256)

RENAMES: Renames = (
    (r"^wav2vec2\.", ""),
    (r"^(masked_spec_embed|layer_weights)$", ""),
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"extractor.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.layer_norm\.", "extractor.0.norm."),
    (r"^feature_projection\.layer_norm\.", "projection.0."),
    (r"^feature_projection\.projection\.", "projection.1."),
    (r"^encoder\.pos_conv_embed\.conv\.", "positions.conv."),
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.attention\.(q|k|v|out)_proj\.", r".attention.\1."),
    (r"\.feed_forward\.intermediate_dense\.", ".expand."),
    (r"\.feed_forward\.output_dense\.", ".contract."),
    (r"^(layers\.\d+)\.layer_norm\.", r"\1.norm1."),
    (r"^(layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
)


class Wav2Vec2(nn.Module):
    """Waveforms (batch, samples), float32 at 16 kHz, at least 400 samples -> logits (batch, classes)."""

    def __init__(self, size: AudioSize, classes: int) -> None:
        super().__init__()
        widths = (1, *size.convolutions)
        self.extractor = nn.Sequential(
            *(
                Convolution(widths[k], widths[k + 1], KERNELS[k], STRIDES[k], norm=k == 0)
                for k in range(len(size.convolutions))
            )
        )
        self.projection = nn.Sequential(
            nn.LayerNorm(widths[-1], EPSILON), nn.Linear(widths[-1], size.width), nn.Dropout(0.1)
        )
        self.positions = Positions(size.width)
        self.norm = nn.LayerNorm(size.width, EPSILON)
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.Sequential(
            *(
                TransformerLayer(size.width, size.heads, epsilon=EPSILON, dropout=0.1, masked=False)
                for _ in range(size.layers)
            )
        )
        self.projector = nn.Linear(size.width, size.projected)
        self.classifier = nn.Linear(size.projected, classes)
        initialise(self)

    def forward(self, waveform: Tensor) -> Tensor:
        frames = self.projection(self.extractor(waveform.unsqueeze(1)).transpose(1, 2))
        frames = self.dropout(self.norm(frames + self.positions(frames)))
        return self.classifier(self.projector(self.layers(frames)).mean(1))  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes Hugging Face's keys too, with or without weight normalisation on the positions."""
        return super().load_state_dict(renamed(state_dict, RENAMES), strict, assign)


class Convolution(nn.Module):
    """A convolution over time; the first norms each channel over the recording."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width_out, kernel, stride, bias=False)
        self.norm = nn.GroupNorm(width_out, width_out) if norm else nn.Identity()
        self.activation = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(features)))  # type: ignore[no-any-return]


class Positions(nn.Module):
    """Where a frame stands, from its neighbours: one wide convolution over time, to be added to the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=POSITION_GROUPS)
        self.activation = nn.GELU()

    def forward(self, frames: Tensor) -> Tensor:
        # An even kernel gives one frame too many.
        given = self.conv(frames.transpose(1, 2))[:, :, :-1]
        return self.activation(given).transpose(1, 2)  # type: ignore[no-any-return]
