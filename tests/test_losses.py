"""Losses and gradients, against what their papers' formulas give by hand."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from delen.exits.losses import balanced_logits, cross_entropies, divergences, joint_loss  # noqa: E402
from delen.tests.small_training import small_network  # noqa: E402


def test_the_joint_loss_is_the_weighted_mean_with_what_the_last_exit_teaches() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    chances = logits.softmax(2)
    entropy = [-chances[index][range(5), target].log().mean() for index in range(3)]
    taught = [(chances[2] * (chances[2] / chances[index]).log()).sum(1).mean() for index in range(2)]
    expected = (1 * entropy[0] + 2 * entropy[1] + 4 * entropy[2] + 0.5 * (1 * taught[0] + 2 * taught[1])) / 7
    given = joint_loss(cross_entropies(logits, target), divergences(logits[:-1], logits[-1]), (1, 2, 4), 0.5)
    torch.testing.assert_close(given, expected)


def test_the_teacher_learns_nothing_from_its_pupils() -> None:
    logits = torch.randn(3, 5, 4, requires_grad=True)
    torch.stack(divergences(logits[:-1], logits[-1])).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[-1] == 0).all())
    assert bool((logits.grad[0] != 0).any())


def test_balanced_gradients_are_a_mean_over_the_exits_ahead_and_heads_learn_undivided() -> None:
    """Gradient equilibrium: a head's gradient enters by 1/n, the rest's by (n-1)/n, n exits being ahead."""
    inputs = torch.rand(6, 1, 6, 6)

    def gradients(exits: list[int], *, balanced: bool) -> dict[str, Any]:
        network = small_network().eval()
        logits = balanced_logits(network, inputs) if balanced else network(inputs)
        logits[exits].square().sum().backward()
        return {name: one.grad for name, one in network.named_parameters() if one.grad is not None}

    plain = [gradients([index], balanced=False) for index in range(3)]
    balanced = gradients([0, 1, 2], balanced=True)
    # Shares of the exits ahead in each segment's gradient, from the input on.
    for segment, shares in enumerate([(1 / 3, 1 / 3, 1 / 3), (0, 1 / 2, 1 / 2), (0, 0, 1)]):
        name = f"segments.{segment}.0.weight"
        expected = torch.stack([share * plain[index][name] for index, share in enumerate(shares) if share]).sum(0)
        torch.testing.assert_close(balanced[name], expected)
    for index in range(3):
        name = next(one for one in plain[index] if one.startswith(f"heads.{index}") and one.endswith("bias"))
        torch.testing.assert_close(balanced[name], plain[index][name])


def test_balancing_changes_no_answer() -> None:
    network = small_network().eval()
    inputs = torch.rand(4, 1, 6, 6)
    assert torch.equal(balanced_logits(network, inputs), network(inputs))
