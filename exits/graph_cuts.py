"""Where a graph can be cut, why it cannot elsewhere, and the parts that cutting gives.

A cut after a module is sound where that module's result is all that the rest of the forward pass needs of what came
before. What does not depend on the input (parameters, tables of positions) and what only counts the batch is not
needed: each part works it out again. Flow: `Cuts(graph)` -> `cut_at(path)` or `points()` -> `part(from, to)`.

Does not: trace (`torch_graph.py`), make heads, or weigh costs (`cut_costs.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from .torch_graph import BATCHES, TorchGraph

NEARBY_COUNT = 3


class CutFault(ValueError):
    """The graph cannot be cut after this module; the text names it, says why, and what can be cut nearby."""


@dataclass(frozen=True)
class Point:
    """A place where the graph can be cut.

    `path`: of the outermost module that ends here; `paths`: of all, the outermost first. `index`: of its node in the
    order of execution. `shape`: of the features, without batch. `macs`: multiply-adds of one input up to here.
    """

    path: str
    paths: tuple[str, ...]
    node: fx.Node
    index: int
    shape: tuple[int, ...]
    macs: int


class Cuts:
    """What is before, after and across each node. Sets of nodes are bits of an int, by their place in the order."""

    def __init__(self, traced: TorchGraph, model: nn.Module) -> None:
        self.traced = traced
        self._model = model
        self.nodes = list(traced.graph.nodes)
        self._place = {node: index for index, node in enumerate(self.nodes)}
        self._before = self._ancestors()
        self._needed = self._before[self._place[traced.output]]
        self._users = [sum(1 << self._place[user] for user in node.users) for node in self.nodes]
        # Paths by the node that ends them, outermost first.
        self._ends: dict[fx.Node, list[str]] = {}
        for path, results in sorted(traced.results.items(), key=lambda item: (item[0].count("."), item[0])):
            if path and len(results) == 1 and results[0] is not None:
                self._ends.setdefault(results[0], []).append(path)

    def cut_at(self, path: str) -> Point:
        """The point after a module. Raises CutFault."""
        node = self._node_of(path)
        fault = self.fault_after(node)
        if fault:
            raise CutFault(f"the network cannot be cut after {path}: {fault}{self._nearby(node)}")
        return self._point(node, path)

    def points(self) -> list[Point]:
        """Every point there is, in order of execution; the last ones may have nothing but a classifier behind them."""
        return [
            self._point(node, self._ends[node][0])
            for node in self.nodes
            if node in self._ends and node is not self.traced.output and not self.fault_after(node)
        ]

    def fault_after(self, node: fx.Node) -> str:
        """Why the graph cannot be cut after a node; empty where it can."""
        place = self._place[node]
        if not self._needed >> place & 1:
            return "the answer does not depend on what it gives"
        values = node.meta["values"]
        if not all(isinstance(value, Tensor) for value in values):
            return "it gives something else than one tensor"
        shapes = [tuple(value.shape) for value in values]
        if (
            tuple(shape[:1] for shape in shapes) != tuple((batch,) for batch in BATCHES)
            or shapes[0][1:] != shapes[1][1:]
        ):
            return f"what it gives for {BATCHES[0]} inputs has shape {shapes[0]}, whose first side is not the batch"
        across = [self.nodes[index] for index in _bits(self.across(node)) if index != place]
        if across:
            return f"the rest of the network also needs {', '.join(dict.fromkeys(map(self._maker, across)))}"
        return ""

    def carries(self, node: fx.Node) -> bool:
        """Whether a node's value depends on the input's values."""
        return self._before[self._place[node]] != 0

    def is_block(self, path: str) -> bool:
        """Whether a module holds others."""
        return any(True for _ in self._model.get_submodule(path).children())

    def across(self, node: fx.Node) -> int:
        """Nodes before the cut, itself included, that something after it uses."""
        before = self._before[self._place[node]]
        after = self._needed & ~before
        return sum(1 << index for index in _bits(before) if self._users[index] & after)

    def macs_between(self, start: fx.Node | None, end: fx.Node) -> int:
        """Multiply-adds of one input from after `start` (None: from the input) up to and including `end`."""
        return sum(self.nodes[index].meta["macs"] for index in _bits(self._between(start, end)))

    def nodes_between(self, start: fx.Node | None, end: fx.Node) -> list[fx.Node]:
        """Nodes that depend on the input's values, from after `start` up to and including `end`, in order."""
        return [self.nodes[index] for index in _bits(self._between(start, end))]

    def part(self, start: fx.Node | None, end: fx.Node, name: str) -> fx.GraphModule:
        """The part from after `start` (None: from the input) to `end` as a module that shares the model's own modules
        and tensors.
        """
        builder = _PartBuilder(self.traced, start)
        for node in self.nodes_between(start, end):
            builder.copy(node)
        return builder.finish(end, name)

    def _between(self, start: fx.Node | None, end: fx.Node) -> int:
        done = self._before[self._place[self.traced.input if start is None else start]]
        return self._before[self._place[end]] & ~done

    def _ancestors(self) -> list[int]:
        """Per node, those of its ancestors and itself that carry something of the input's values."""
        before: list[int] = []
        for index, node in enumerate(self.nodes):
            above = 0
            for parent in node.all_input_nodes:
                above |= before[self._place[parent]]
            counts_batch = node.op != "output" and counts_only(node)
            before.append(0 if counts_batch or (not above and node.op != "placeholder") else above | 1 << index)
        return before

    def _node_of(self, path: str) -> fx.Node:
        try:
            module = self._model.get_submodule(path)
        except AttributeError:
            module = None
        if not path or module is None:
            names = ", ".join(name for name, _ in self._model.named_children())
            raise CutFault(f"there is no module {path!r}; the model has {names}: name one by its path, like `layer1.0`")
        # A module under two names is known by its first.
        first = next(name for name, other in self._model.named_modules() if other is module)
        results = self.traced.results.get(first, [])
        if len(results) == 1 and results[0] is not None:
            return results[0]
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            reason = f"it only holds modules; name one of them, like {path}.{next(iter(module._modules), 0)}"
        elif not results:
            reason = "it is not run by itself: never, or inside a module that is taken as one piece"
        elif len(results) > 1:
            reason = f"it runs {len(results)} times; name the module around one of its runs"
        else:
            reason = "it gives something else than one tensor"
        raise CutFault(f"the network cannot be cut after {path}: {reason}{self._like(path)}")

    def _point(self, node: fx.Node, path: str) -> Point:
        shape = tuple(int(side) for side in node.meta["values"][0].shape[1:])
        paths = tuple(self._ends.get(node, [path]))
        return Point(path, paths, node, self._place[node], shape, self.macs_between(None, node))

    def _maker(self, node: fx.Node) -> str:
        """What a value is called in a message: the module that gave it, or the operation and where it stands."""
        if node.op == "placeholder":
            return "the network's input"
        if node in self._ends:
            return f"the output of {self._ends[node][0]}"
        path = node.meta.get("path", "")
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        follows = self._before[self._place[node]]
        last = next(
            (self._ends[self.nodes[k]][0] for k in reversed(list(_bits(follows))) if self.nodes[k] in self._ends), ""
        )
        where = f" after {last}" if last else f" in {path}" if path else ""
        return f"the result of `{target}`{where}"

    def _nearby(self, node: fx.Node) -> str:
        points = sorted(self.points(), key=lambda point: abs(point.index - self._place[node]))
        near = sorted(points[: 2 * NEARBY_COUNT], key=lambda point: point.index)
        return f"; it can be cut nearby after {', '.join(point.path for point in near)}" if near else ""

    def _like(self, path: str) -> str:
        """Points inside or around a module that has none itself."""
        parent = path.rpartition(".")[0]
        found = [point.path for point in self.points() if parent in ("", point.path) or point.path.startswith(parent)]
        return f"; it can be cut after {', '.join(found[: 2 * NEARBY_COUNT])}" if found else ""


class _PartBuilder:
    """Copies nodes into a graph of their own, and works out anew what they need besides."""

    def __init__(self, traced: TorchGraph, start: fx.Node | None) -> None:
        self._objects = traced.objects
        self._used: dict[str, Any] = {}
        self._graph = fx.Graph()
        self._input = self._graph.placeholder("features")
        self._batch: fx.Node | None = None
        self._copies: dict[fx.Node, fx.Node] = {traced.input if start is None else start: self._input}

    def copy(self, node: fx.Node) -> None:
        if node not in self._copies:
            made = self._graph.node_copy(node, self._resolve)
            made.meta = {}
            if node.op in ("call_module", "get_attr"):
                self._used[str(node.target)] = self._objects[str(node.target)]
            self._copies[node] = made

    def finish(self, end: fx.Node, name: str) -> fx.GraphModule:
        self._graph.output(self._copies[end])
        self._graph.lint()
        return fx.GraphModule(self._used, self._graph, class_name=name)

    def _resolve(self, node: fx.Node) -> fx.Node:
        if node not in self._copies:
            if counts_only(node):
                self._copies[node] = self._count(node)
            else:
                self.copy(node)
        return self._copies[node]

    def _count(self, node: fx.Node) -> fx.Node:
        """A number that depends on the batch alone, as slope x batch + constant from its values at two batch sizes."""
        first, second = node.meta["values"]
        slope = (second - first) // (BATCHES[1] - BATCHES[0])
        constant = first - slope * BATCHES[0]
        if self._batch is None:
            self._batch = self._graph.call_method("size", (self._input, 0))
        count = self._batch
        if slope != 1:
            count = self._graph.call_function(operator.mul, (count, slope))
        if constant:
            count = self._graph.call_function(operator.add, (count, constant))
        return count


def counts_only(node: fx.Node) -> bool:
    """Whether a node gives a whole number, which by construction follows from the batch alone."""
    values = node.meta.get("values", (None,))
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
