"""The audio encoder: frames as the paper counts them, and checkpoints in the usual keys load."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")

from torch import Tensor  # noqa: E402  (after the skip above)

from delen.exits.zoo_audio import BASE, EDGE, KERNELS, AudioSize, Wav2Vec2  # noqa: E402
from delen.tests.filled_weights import filled, wave  # noqa: E402

SIZE = AudioSize(convolutions=(4,) * 7, width=32, heads=2, layers=1, projected=8)
LAYER, POSITIONS = "wav2vec2.encoder.layers.0", "wav2vec2.encoder.pos_conv_embed.conv"
NORMALISED = ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize("size", [EDGE, BASE])
def test_a_second_is_49_frames_of_20_ms(size: AudioSize) -> None:
    with torch.device("meta"):
        network = Wav2Vec2(size, 5)
        frames = network.extractor(torch.empty(1, 1, 16_000))
        # 25 ms are the shortest recording; one sample less is none.
        assert network.extractor(torch.empty(1, 1, 400)).shape[-1] == 1
        assert network(torch.empty(2, 400)).shape == (2, 5)
        with pytest.raises(RuntimeError):
            network.extractor(torch.empty(1, 1, 399))
    assert frames.shape == (1, size.convolutions[-1], 49)


def checkpoint() -> dict[str, Tensor]:
    """Keys and shapes of Hugging Face's classifier of SIZE, weights by formula."""
    width = SIZE.width
    shapes: dict[str, tuple[int, ...]] = {
        f"wav2vec2.feature_extractor.conv_layers.{index}.conv.weight": (4, 4 if index else 1, kernel)
        for index, kernel in enumerate(KERNELS)
    }
    shapes |= {"wav2vec2.masked_spec_embed": (width,), f"{POSITIONS}.bias": (width,)}
    shapes |= {f"{POSITIONS}.{NORMALISED[0]}": (1, 1, 128), f"{POSITIONS}.{NORMALISED[1]}": (width, width // 16, 128)}
    parts: dict[str, tuple[int, ...]] = {
        "wav2vec2.feature_extractor.conv_layers.0.layer_norm": (4,),
        "wav2vec2.feature_projection.layer_norm": (4,),
        "wav2vec2.feature_projection.projection": (width, 4),
        "wav2vec2.encoder.layer_norm": (width,),
        **{f"{LAYER}.attention.{part}_proj": (width, width) for part in ("q", "k", "v", "out")},
        f"{LAYER}.layer_norm": (width,),
        f"{LAYER}.feed_forward.intermediate_dense": (4 * width, width),
        f"{LAYER}.feed_forward.output_dense": (width, 4 * width),
        f"{LAYER}.final_layer_norm": (width,),
        "projector": (8, width),
        "classifier": (5, 8),
    }
    for key, shape in parts.items():
        shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    return filled({key: torch.empty(shape) for key, shape in shapes.items()})


def test_a_checkpoint_in_published_keys_answers_as_in_its_own_network() -> None:
    state, network, waveforms = checkpoint(), Wav2Vec2(SIZE, 5).eval(), wave(2, 4000)
    network.load_state_dict(state)
    # What transformers 5.23's Wav2Vec2ForSequenceClassification gave.
    wanted = torch.tensor(
        [[0.845393, 5.430728, 4.231256, -1.478027, -5.495847], [0.749512, 5.051360, 3.963851, -1.346318, -5.106318]]
    )
    with torch.no_grad():
        assert torch.allclose(network(waveforms), wanted, atol=1e-3)
    # Its own keys load too, and so do the older names of a normalised weight's two tensors.
    again = Wav2Vec2(SIZE, 5).eval()
    again.load_state_dict(network.state_dict())
    for name, old in zip(NORMALISED, ("weight_g", "weight_v"), strict=True):
        state[f"{POSITIONS}.{old}"] = state.pop(f"{POSITIONS}.{name}")
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again(waveforms), network(waveforms))
    # Half of a normalised weight is no weight.
    del state[f"{POSITIONS}.weight_g"]
    with pytest.raises(RuntimeError, match=r"Missing key.*positions\.conv\.weight"):
        again.load_state_dict(state)
