"""Recorded steps: which recording a batch runs in, and that what it gives is its own.

On a GPU `test_runners.py` does more.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[torch]'")

from delen.exits.torch_recording import Recording, _Graph  # noqa: E402  (after the skip above)

pytestmark = pytest.mark.slow


def doubled(sizes: tuple[int, ...]) -> tuple[Recording, list[int]]:
    """Recordings that double what lies in their input when they are replayed; and which were, by size."""
    taken = torch.zeros(max(sizes), 3)
    replayed: list[int] = []
    graphs = {}
    for size in sizes:
        given = torch.zeros(size, 3)

        def replay(size: int = size, given: Any = given) -> None:
            replayed.append(size)
            given.copy_(2 * taken[:size])

        graphs[size] = _Graph(SimpleNamespace(replay=replay), given)
    return Recording(taken, graphs), replayed


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6)])
def test_a_batch_runs_in_the_smallest_recording_that_holds_it(rows: int, size: int) -> None:
    recording, replayed = doubled((1, 2, 4, 6))
    features = torch.arange(3.0 * rows).reshape(rows, 3)
    given = recording.replay(features)
    assert given is not None
    torch.testing.assert_close(given, 2 * features)
    assert replayed == [size]


def test_what_was_given_stays_when_the_next_one_runs() -> None:
    recording, _ = doubled((4,))
    first = recording.replay(torch.ones(2, 3))
    second = recording.replay(torch.full((3, 3), 5.0))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, torch.full((2, 3), 2.0))
    torch.testing.assert_close(second, torch.full((3, 3), 10.0))


def test_a_batch_too_large_for_all_of_them_is_left_to_the_steps() -> None:
    recording, replayed = doubled((1, 2))
    assert recording.replay(torch.ones(3, 3)) is None
    assert not replayed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no GPU")
def test_steps_are_recorded_on_a_gpu() -> None:
    from delen.exits.torch_recording import record

    with torch.inference_mode():
        taken = torch.zeros(4, 3, device="cuda")
        recording = record(lambda rows: 2 * rows + 1, taken, (1, 2, 4), torch.cuda.graph_pool_handle())
        given = recording.replay(torch.ones(3, 3, device="cuda"))
    assert given is not None
    torch.testing.assert_close(given.cpu(), torch.full((3, 3), 3.0))
