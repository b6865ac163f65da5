"""What training minimises, and how exits that share a trunk are kept from pulling it apart.

`weighted`: the weighted mean of all exits' cross entropies (BranchyNet, ICPR'16). `balanced`: gradient equilibrium (Li
et al., Improved Techniques for Training Adaptive Deep Networks, ICCV'19, section 3.1): where a head leaves the trunk
with n exits still ahead, itself included, its gradient enters the trunk by 1/n and the rest's by (n-1)/n, so that every
segment gets a mean of gradients and not a sum that grows towards the input; the heads themselves learn undivided.
Both may add the earlier exits' divergence from the last one's distribution (Be Your Own Teacher, ICCV'19); differs: the
teacher is detached, so that early exits never pull the last one down.

Does not: choose weights, or touch parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .multi_exit import MultiExit


def balanced_logits(network: MultiExit, inputs: Tensor) -> Tensor:
    """`network(inputs)`, with the gradients of gradient equilibrium; shape (exits, batch, classes)."""
    ahead = len(network.heads)
    features, logits = inputs, []
    for segment, head in zip(network.segments, network.heads, strict=True):
        features = segment(features)
        logits.append(head(_scale_gradient(features, 1 / ahead)))
        features = _scale_gradient(features, (ahead - 1) / ahead)
        ahead -= 1
    return torch.stack(logits)


def cross_entropies(logits: Sequence[Tensor] | Tensor, target: Tensor) -> list[Tensor]:
    """One per exit. `logits`: per exit (batch, classes), float32. `target`: (batch,), int64."""
    return [functional.cross_entropy(exit_logits, target) for exit_logits in logits]


def divergences(logits: Sequence[Tensor] | Tensor, teacher: Tensor) -> list[Tensor]:
    """Kullback-Leibler divergence of each exit's distribution from the teacher's, which gets no gradient."""
    certain = functional.log_softmax(teacher.detach(), dim=-1)
    return [
        functional.kl_div(functional.log_softmax(exit_logits, dim=-1), certain, log_target=True, reduction="batchmean")
        for exit_logits in logits
    ]


def joint_loss(
    entropies: Sequence[Tensor], distilled: Sequence[Tensor], weights: Sequence[float], distill: float
) -> Tensor:
    """The weighted mean over exits.

    Args:
        entropies: one per exit. distilled: likewise without the last exit; empty: no distillation.
        distill: weight of the divergences beside the entropies.
    """
    total = entropies[0].new_zeros(())
    for weight, entropy in zip(weights, entropies, strict=True):
        total = total + weight * entropy
    if distilled:
        for weight, divergence in zip(weights[:-1], distilled, strict=True):
            total = total + distill * weight * divergence
    return total / sum(weights)


class _GradientScale(torch.autograd.Function):
    """The same values forward, the gradient times a factor backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _scale_gradient(features: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _GradientScale.apply(features, factor)  # type: ignore[no-untyped-call]
    return scaled
