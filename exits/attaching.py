"""An ordinary PyTorch model becomes a multi-exit network: cut into segments, with a new head behind each cut.

Flow: `attach(model, at, example=...)` -> the model runs once -> its graph is traced (`torch_graph.py`), cut
(`graph_cuts.py`) and given heads (`heads.py`) -> the parts are run beside the model and compared. The segments share
the model's own modules and tensors, so nothing is copied and a frozen trunk stays as it is bit for bit. The last exit
is the model's own answer: its final linear layer becomes the last head, and what is before it the last segment.

Does not: train heads (`train.py`), or keep anything on disk (`workspace.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from .attach_checks import AttachError as AttachError
from .attach_checks import compare, try_alone
from .cut_costs import CutCost, by_time, candidates, choose_even
from .feature_layout import channel_axis
from .graph_cuts import CutFault, Cuts, Point
from .heads import HeadKind, make_head
from .multi_exit import MultiExit
from .torch_graph import TorchGraph, TraceFault, trace

# Operations between the final linear layer and the answer: softmax, a mean over steps.
TAIL_MAX = 4
LINEAR_FUNCTIONS = (functional.linear, torch.ops.aten.linear.default)

HeadMaker = Callable[[tuple[int, ...], int], nn.Module]
Head: TypeAlias = "HeadKind | HeadMaker | Sequence[nn.Module]"


class AttachedExit(NamedTuple):
    """One exit. `path`: the module it comes after, None for the model's own answer. `shape`: of the features its head
    takes, without batch. `macs`: multiply-adds of one input up to these features. `head_parameters`: numbers in its
    head.
    """

    path: str | None
    shape: tuple[int, ...]
    macs: int
    head_parameters: int


class Attached(NamedTuple):
    """The network and what its exits are. `new_last_head`: the number of classes is not the model's, so its classifier
    is replaced. `tracer`: `fx`; or `export`, which fixes batch norms and dropout as in inference also while training.
    """

    network: MultiExit
    exits: tuple[AttachedExit, ...]
    classes: int
    tracer: str
    new_last_head: bool


def attach(
    model: nn.Module,
    at: Sequence[str] | int,
    *,
    example: Tensor,
    head: Head = "pool",
    classes: int | None = None,
) -> MultiExit:
    """Give a model exits.

    Args:
        at: paths of modules after which an exit goes, e.g. `["layer1", "layer2.1"]`; or how many to propose. The
            model's own answer is one exit more, the last; a path with nothing but its classifier behind means it too.
        example: an input with its batch, whose shape without batch, and dtype, the network will take.
        head: kind of the new heads; or a function (feature shape without batch, classes) -> module; or the modules.
        classes: None: as many as the model gives. Another number replaces the model's final linear layer by a new one.
    Returns:
        A network that shares the model's parameters and buffers, in the model's mode (training or not).
    Raises:
        AttachError: naming the module and the reason; among them control flow that depends on the data, a cut that
            would leave something behind that is still needed, and an answer that is not (batch, classes).
    """
    return attach_described(model, at, example=example, head=head, classes=classes).network


def attach_described(
    model: nn.Module,
    at: Sequence[str] | int,
    *,
    example: Tensor,
    head: Head = "pool",
    classes: int | None = None,
) -> Attached:
    """`attach`, with a description of every exit."""
    with evaluating(model):
        cuts = cuts_of(model, example)
        points, last = _choose(cuts, at)
        made = int(cuts.traced.output.meta["values"][0].shape[1])
        segments = _segments(cuts, [*(point.node for point in points), last])
        heads = _heads(cuts, points, head, classes or made)
        heads.append(_last_head(cuts, last, made, classes or made))
        network = MultiExit(segments, heads).eval()
        compare(network, model, example, classes or made)
        ends = [*((point.path, point.shape, point.macs) for point in points), (None, _shape(last), _macs(cuts, last))]
        sizes = [sum(value.numel() for value in part.parameters()) for part in heads]
    for part in (network, network.segments, network.heads, *segments, *heads[:-1]):
        part.training = model.training
    for part in heads[:-1]:
        part.train(model.training)
    exits = tuple(AttachedExit(*end, size) for end, size in zip(ends, sizes, strict=True))
    return Attached(network, exits, classes or made, cuts.traced.tracer, classes not in (None, made))


def propose(
    model: nn.Module, example: Tensor, count: int, by: Literal["flops", "time"] = "flops"
) -> tuple[list[str], list[CutCost]]:
    """Paths for `count` new exits at even cost, and every candidate with its cost.

    Args:
        by: multiply-adds, or time measured here at batch 1.
    Raises:
        AttachError: as `attach`; or there are fewer candidates than `count`.
    """
    with evaluating(model):
        cuts = cuts_of(model, example)
        last = _last_features(cuts)
        found = candidates(cuts, last)
        if by == "time":
            found = by_time(cuts, found, example)
        chosen = _proposed(found, count)
    return [cost.path for cost in chosen], found


def cut_points(model: nn.Module, example: Tensor) -> list[CutCost]:
    """Every place where an exit can go, in order of execution, with its cost. Raises AttachError."""
    with evaluating(model):
        cuts = cuts_of(model, example)
        return candidates(cuts, _last_features(cuts))


def cuts_of(model: nn.Module, example: Tensor) -> Cuts:
    """Trace a model in eval mode and say where it can be cut. Raises AttachError."""
    try_alone(model, example)
    try:
        return Cuts(trace(model, example), model)
    except TraceFault as fault:
        where = f"{fault.path} ({type(model.get_submodule(fault.path)).__name__})" if fault.path else "the model itself"
        raise AttachError(
            f"the forward pass is no fixed graph: in {where}: {fault}; write that module without it, or keep it out "
            "of the network"
        ) from fault


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and every module back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def classifier_input(cuts: Cuts) -> fx.Node | None:
    """What the model's final linear layer takes, where everything after that layer needs nothing else; else None."""
    node = cuts.traced.output
    for _ in range(TAIL_MAX):
        carried = [parent for parent in node.all_input_nodes if cuts.carries(parent)]
        if len(carried) != 1:
            return None
        if _is_linear(node, cuts.traced):
            features = carried[0]
            if features.op == "call_module" and isinstance(cuts.traced.objects[str(features.target)], nn.Dropout):
                features = features.all_input_nodes[0]
            return None if cuts.fault_after(features) else features
        node = carried[0]
    return None


def _last_features(cuts: Cuts) -> fx.Node:
    return classifier_input(cuts) or cuts.traced.output


def _proposed(found: list[CutCost], count: int) -> list[CutCost]:
    try:
        return choose_even(found, count)
    except ValueError as fault:
        raise AttachError(str(fault)) from fault


def _choose(cuts: Cuts, at: Sequence[str] | int) -> tuple[list[Point], fx.Node]:
    """Points in order of execution, and where the last segment ends."""
    last = _last_features(cuts)
    if isinstance(at, int):
        return [cuts.cut_at(cost.path) for cost in _proposed(candidates(cuts, last), at)], last
    if isinstance(at, str) or not at:
        raise AttachError(f"at is {at!r}; expected paths of modules, e.g. ['layer1', 'layer2'], or how many to propose")
    try:
        found = [cuts.cut_at(path) for path in at]
    except CutFault as fault:
        raise AttachError(str(fault)) from fault
    points = {point.index: point for point in found}
    if len(points) < len(found):
        raise AttachError(f"of {', '.join(at)}, two are the same place in the network; leave one out")
    chosen = [points[index] for index in sorted(points) if cuts.macs_between(points[index].node, last)]
    if not chosen:
        raise AttachError(
            f"after {', '.join(at)} comes nothing but the model's own classifier, which is the last exit anyway: name "
            "an earlier module"
        )
    return chosen, last


def _segments(cuts: Cuts, ends: list[fx.Node]) -> list[nn.Module]:
    starts = [None, *ends[:-1]]
    return [cuts.part(start, end, f"Segment{k}") for k, (start, end) in enumerate(zip(starts, ends, strict=True))]


def _heads(cuts: Cuts, points: list[Point], head: Head, classes: int) -> list[nn.Module]:
    """The new heads, one per point."""
    if not isinstance(head, str) and not callable(head):
        if len(head) != len(points):
            raise AttachError(f"{len(points)} cuts need as many heads, not {len(head)}; the last exit keeps its own")
        return list(head)
    heads = []
    for point in points:
        try:
            if isinstance(head, str):
                axis = channel_axis(cuts.traced, point.node)
                heads.append(make_head(head, point.shape, classes, channel_axis=axis))
            else:
                heads.append(head(point.shape, classes))
        except ValueError as fault:
            raise AttachError(f"no head after {point.path}: {fault}") from fault
    return heads


def _last_head(cuts: Cuts, last: fx.Node, made: int, classes: int) -> nn.Module:
    """The model's own classifier; or a new one in its place where the number of classes is another."""
    if last is cuts.traced.output:
        if classes != made:
            raise AttachError(
                f"the model gives {made} classes, not {classes}, and does not end in a linear layer that could be "
                "replaced; replace its classifier yourself"
            )
        return nn.Identity()
    if classes == made:
        return cuts.part(last, cuts.traced.output, "Classifier")
    if len(shape := _shape(last)) != 1:
        raise AttachError(f"the final linear layer takes features of shape {shape}; replace it yourself")
    return nn.Linear(shape[0], classes)


def _is_linear(node: fx.Node, traced: TorchGraph) -> bool:
    if node.op == "call_module":
        return isinstance(traced.objects[str(node.target)], nn.Linear)
    return node.op == "call_function" and node.target in LINEAR_FUNCTIONS


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(side) for side in node.meta["values"][0].shape[1:])


def _macs(cuts: Cuts, node: fx.Node) -> int:
    return cuts.macs_between(None, node)
