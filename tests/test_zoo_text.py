"""The text encoder: padding counts for nothing, no id can break it, and checkpoints in the usual keys load."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")

from torch import Tensor  # noqa: E402  (after the skip above)

from delen.exits.zoo_text import POSITIONS, VOCABULARY, TextEncoder  # noqa: E402
from delen.tests.filled_weights import filled  # noqa: E402

WIDTH, CLASSES = 16, 3
LAYER: dict[str, tuple[int, ...]] = {
    "attention.self.query": (WIDTH, WIDTH),
    "attention.self.key": (WIDTH, WIDTH),
    "attention.self.value": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "attention.output.LayerNorm": (WIDTH,),
    "intermediate.dense": (4 * WIDTH, WIDTH),
    "output.dense": (WIDTH, 4 * WIDTH),
    "output.LayerNorm": (WIDTH,),
}


def encoder(seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    network = TextEncoder(2, WIDTH, 2, CLASSES).eval()
    for value in network.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return network


def texts(count: int, steps: int) -> Tensor:
    ids: Tensor = torch.randint(1, VOCABULARY, (count, steps), generator=torch.Generator().manual_seed(0))
    return ids


def test_padding_changes_no_answer() -> None:
    network, ids = encoder(), texts(2, 7)
    padded = torch.cat([ids, torch.zeros(2, 9, dtype=torch.int64)], 1)
    with torch.no_grad():
        assert torch.allclose(network(padded), network(ids), atol=1e-6)
        # And a token in its place does change it.
        padded[:, 10] = 5
        assert not torch.allclose(network(padded), network(ids), atol=1e-3)


def test_padding_stays_zero_between_all_layers_so_that_any_cut_can_carry_it() -> None:
    network, ids = encoder(), texts(1, 8)
    ids[0, 5:] = 0
    with torch.no_grad():
        features = network.embeddings(ids)
        for layer in network.layers:
            assert features.eq(0).all(-1).tolist() == [[False] * 5 + [True] * 3]
            features = layer(features)


@pytest.mark.parametrize("wrong", [-1, -(2**63), VOCABULARY, 2**63 - 1])
def test_no_id_that_a_client_can_send_stops_it(wrong: int) -> None:
    ids = texts(2, 4)
    ids[0, 2] = wrong
    network = encoder()
    with torch.no_grad():
        given, alone = network(ids), network(texts(2, 4))
    assert bool(given.isfinite().all())
    assert torch.allclose(given[1], alone[1], atol=1e-6), "the other request of the batch is none the wiser"


def test_an_empty_text_has_an_answer() -> None:
    with torch.no_grad():
        assert bool(encoder()(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all())


def checkpoint() -> dict[str, Tensor]:
    """Keys and shapes of Hugging Face's classifier of this size, weights by formula."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    parts: dict[str, tuple[int, ...]] = {
        "bert.embeddings.LayerNorm": (WIDTH,),
        **{f"bert.encoder.layer.{index}.{key}": shape for index in (0, 1) for key, shape in LAYER.items()},
        "bert.pooler.dense": (WIDTH, WIDTH),
        "classifier": (CLASSES, WIDTH),
    }
    for key, shape in parts.items():
        shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    return filled({key: torch.empty(shape) for key, shape in shapes.items()})


def test_a_checkpoint_in_published_keys_answers_as_in_its_own_network() -> None:
    state, network = checkpoint(), encoder()
    ids = torch.tensor([[101, 2023, 2003, 102, 0, 0], [101, 7592, 2088, 999, 999, 102]])
    network.load_state_dict({**state, "bert.embeddings.position_ids": torch.arange(POSITIONS)})
    # What transformers 5.23's BertForSequenceClassification gave, told which ids are padding.
    wanted = torch.tensor([[0.169035, -0.373140, 0.258165], [-0.269828, -0.164141, 0.458055]])
    with torch.no_grad():
        assert torch.allclose(network(ids), wanted, atol=1e-4)
    # Its own keys load too, and so do the first BERTs' names of a norm's two tensors.
    again = encoder(2)
    again.load_state_dict(network.state_dict())
    again.load_state_dict({key.replace("Norm.weight", "Norm.gamma"): value for key, value in state.items()})
    with torch.no_grad():
        assert torch.equal(again(ids), network(ids))
