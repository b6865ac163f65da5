"""Which axis of a tensor has the channels, told by the layer it comes from: a head has to know.

Flow: `channel_axis(graph, node)` walks back from the features to the next layer that mixes channels: convolutions and
batch norms have theirs behind the batch, linear layers and layer norms last; transpositions on the way are followed.

Does not: guess where nothing tells; None then means the usual place.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from .torch_graph import TorchGraph, call

STEPS_MAX = 64
# Axis 1.
FIRST: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d),
)
FIRST_FUNCTIONS = {
    *(functional.conv1d, functional.conv2d, functional.batch_norm, functional.group_norm),
    *(torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default),
}
# The last axis.
LAST: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.GRU, nn.LSTM),
)
LAST_FUNCTIONS = {
    *(functional.linear, functional.layer_norm, functional.embedding),
    *(torch.ops.aten.linear.default, torch.ops.aten.layer_norm.default, torch.ops.aten.embedding.default),
}
TURNING = {"transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "mT"}
TURNING_FUNCTIONS = {
    *(torch.transpose, torch.permute, torch.movedim, torch.swapaxes),
    *(torch.ops.aten.transpose.int, torch.ops.aten.permute.default),
}


def channel_axis(traced: TorchGraph, node: fx.Node) -> int | None:
    """The axis, counted from 0 with the batch; None where it is not known."""
    order = {step: index for index, step in enumerate(traced.graph.nodes)}
    turns: list[fx.Node] = []
    for _ in range(STEPS_MAX):
        sides = _dimensions(node)
        axis = _told(traced, node, sides)
        if axis is not None:
            return _follow(axis, turns)
        parents = [parent for parent in node.all_input_nodes if _dimensions(parent) == sides]
        if not parents:
            return None
        if node.target in TURNING_FUNCTIONS or (node.op == "call_method" and node.target in TURNING):
            turns.append(node)
        # Of a sum, the branch and not the shortcut: its layer is nearer.
        node = max(parents, key=order.__getitem__)
    return None


def _dimensions(node: fx.Node) -> int:
    value = node.meta["values"][0]
    return value.dim() if isinstance(value, Tensor) else 0


def _told(traced: TorchGraph, node: fx.Node, sides: int) -> int | None:
    """What a node itself says about the axis."""
    if node.op == "call_module":
        layer = traced.objects[str(node.target)]
        return 1 if isinstance(layer, FIRST) else sides - 1 if isinstance(layer, LAST) else None
    return 1 if node.target in FIRST_FUNCTIONS else sides - 1 if node.target in LAST_FUNCTIONS else None


def _follow(axis: int, turns: list[fx.Node]) -> int:
    """Where the axis is after the turns, of which the last in the list comes first."""
    for turn in reversed(turns):
        sides = _dimensions(turn)
        # Each side gets a length of its own, so that the result's shape says where it went.
        probe = torch.empty(tuple(range(2, 2 + sides)), device="meta")
        given = call(turn, {}, (probe, *turn.args[1:]), turn.kwargs)
        axis = list(given.shape).index(2 + axis)
    return axis
