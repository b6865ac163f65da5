"""What heads see of a trunk that stays as it is: computed without gradients, and once only where memory allows.

Flow: `FrozenTrunk.features(rows)` -> for each head what its trainable layers take, and the last exit's logits where
they teach. The layers with which a head begins that learn nothing (pooling, flattening) are run here too, so that what
is kept of a picture is often a few hundred numbers: then only the first pass over the data costs a run of the trunk.

Kept features are always computed in the company of the first pass's batches, also after a restart: kernels may give a
row other last bits in another batch. Does not: keep anything of pictures that chance changes, or touch the trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .heads import ChannelsFirst
from .multi_exit import MultiExit

# They learn nothing and give the same in training as in inference.
STILL = (
    *(nn.Flatten, nn.Identity, ChannelsFirst),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)


def still_layers(head: nn.Module) -> int:
    """With how many layers a head begins that learn nothing."""
    if not isinstance(head, nn.Sequential):
        return 0
    return next((index for index, layer in enumerate(head) if not isinstance(layer, STILL)), len(head))


def learning_part(head: nn.Module) -> nn.Module:
    """The head without those layers; it shares the others with it."""
    count = still_layers(head)
    if not count:
        return head
    assert isinstance(head, nn.Sequential)
    return head[count:]


class FrozenTrunk:
    """A trunk under heads that learn.

    Args:
        heads: the first of the network's heads, those that learn.
        with_teacher: whether the last exit's logits are wanted too, after the features; they come last.
        order: every row of the data once, in batches, as the first pass takes them. Empty: keep nothing.
        bytes_max: of what is kept; if it would be more, nothing is.
    """

    def __init__(
        self,
        network: MultiExit,
        heads: Sequence[nn.Module],
        *,
        with_teacher: bool,
        order: Sequence[Tensor] = (),
        bytes_max: int = 0,
    ) -> None:
        self._segments = list(network.segments)[: len(network.segments) if with_teacher else len(heads)]
        self._first_layers = [head[: still_layers(head)] if isinstance(head, nn.Sequential) else None for head in heads]
        self._teacher = network.heads[-1] if with_teacher else None
        self._kept: list[Tensor] = []
        self._bytes_max = bytes_max
        self._groups = tuple(order)
        self._group_of = torch.empty(sum(map(len, order)), dtype=torch.int64)
        for index, rows in enumerate(self._groups):
            self._group_of[rows] = index
        self._is_kept = [False] * len(self._groups)

    @torch.no_grad()
    def run(self, inputs: Tensor) -> list[Tensor]:
        """What each head's learning part takes, for inputs; and the teacher's logits."""
        found = []
        features = inputs
        for index, segment in enumerate(self._segments):
            features = segment(features)
            if index < len(self._first_layers):
                first = self._first_layers[index]
                found.append(features if first is None else first(features))
        if self._teacher is not None:
            found.append(self._teacher(features))
        return found

    def features(self, rows: Tensor, inputs_of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """`run` for rows of the data, remembered where that was decided. `inputs_of`: the inputs of some rows."""
        if not self._groups:
            return self.run(inputs_of(rows))
        for group in torch.unique(self._group_of[rows]).tolist():
            if not self._is_kept[group]:
                fresh = self.run(inputs_of(self._groups[group]))
                if not self._kept and not self._make_room(fresh):
                    self._groups = ()
                    return self.run(inputs_of(rows))
                for kept, tensor in zip(self._kept, fresh, strict=True):
                    kept[self._groups[group].to(kept.device)] = tensor
                self._is_kept[group] = True
        return [kept[rows.to(kept.device)] for kept in self._kept]

    def _make_room(self, fresh: list[Tensor]) -> bool:
        count = len(self._group_of)
        if sum(tensor[0].nbytes for tensor in fresh) * count > self._bytes_max:
            return False
        self._kept = [tensor.new_empty((count, *tensor.shape[1:])) for tensor in fresh]
        return True
