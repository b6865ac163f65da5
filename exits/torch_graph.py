"""A model's forward pass as a graph of operations: what `attach` cuts.

Flow: `trace(model, example)` -> torch.fx runs the forward once with stand-ins for tensors -> `TorchGraph`: one input,
one output, and for each module the node that holds its result. Unlike plain torch.fx, every operation is also worked
out on fake tensors at two batch sizes, so that shapes are known while tracing: sides that differ between the two
depend on the batch and stay symbolic, all others are plain numbers that the model may compute and branch with. Where
torch.fx gives up, torch.export is tried (`exported_graph.py`).

A module without children, or of torch.nn, is taken as one piece: it behaves as ever in training, and its parameters
and buffers stay the model's own.

Does not: choose or cut (`graph_cuts.py`), or change the model.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

# Two batch sizes at which shapes are worked out; not 1, which broadcasts.
BATCHES = (2, 3)
# Of torch.nn, but only a frame around other modules.
FRAMES = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.TransformerEncoder, nn.TransformerDecoder)
# What a model's code may raise when it is run on stand-ins, and what both tracers raise.
FAULTS = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError, ArithmeticError)


class TraceFault(ValueError):
    """The forward pass is no fixed graph. `path`: the module in which that was found, empty for the model itself."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


@dataclass
class TorchGraph:
    """A forward pass.

    Nodes carry in `meta`: `values`, what they give at each of `BATCHES` (fake tensors, numbers, or tuples of them);
    `macs`, multiply-adds for one input; `path`, the module in whose forward they stand.

    `objects`: what the targets of `call_module` and `get_attr` nodes mean. `results`: by module path, the node of each
    of its calls, None where a call gave something else than a tensor. `tracer`: `fx`, or `export`, whose graph has
    batch norms and dropout fixed as in inference.
    """

    graph: fx.Graph
    objects: dict[str, Any]
    results: dict[str, list[fx.Node | None]] = field(default_factory=dict)
    tracer: str = "fx"

    @property
    def input(self) -> fx.Node:
        """The one placeholder."""
        found: fx.Node = next(node for node in self.graph.nodes if node.op == "placeholder")
        return found

    @property
    def output(self) -> fx.Node:
        """The node whose value the model returns."""
        (last,) = (node for node in self.graph.nodes if node.op == "output")
        result: fx.Node = last.args[0]
        return result


class Evaluation:
    """Works out nodes one by one on fake tensors: shapes and dtypes without arithmetic, and multiply-adds."""

    def __init__(self, objects: dict[str, Any], example: Tensor) -> None:
        self.objects = objects
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        row = example[:1].detach()
        self._inputs = [self._mode.from_tensor(row.expand(batch, *row.shape[1:]).clone()) for batch in BATCHES]

    def work_out(self, node: fx.Node) -> None:
        """Fill in `values` and `macs`. Raises what the operation raises."""
        if node.op == "placeholder":
            node.meta["values"], node.meta["macs"] = tuple(self._inputs), 0
            return
        if node.op == "output":
            return
        # MACs are counted at the first batch size; the counter counts a multiplication and its addition as two.
        counter = FlopCounterMode(display=False)
        values = []
        with torch.no_grad(), self._mode:
            with counter:
                values.append(self._at_batch(node, 0))
            values += [self._at_batch(node, index) for index in range(1, len(BATCHES))]
        node.meta["values"] = tuple(values)
        node.meta["macs"] = counter.get_total_flops() // 2 // BATCHES[0]

    def _at_batch(self, node: fx.Node, index: int) -> Any:
        args, kwargs = (map_arg(part, lambda arg: arg.meta["values"][index]) for part in (node.args, node.kwargs))
        return call(node, self.objects, args, kwargs)


def call(node: fx.Node, objects: dict[str, Any], args: Any, kwargs: Any) -> Any:
    """Do what a node says, with values for its arguments."""
    if node.op == "get_attr":
        return objects[str(node.target)]
    if node.op == "call_module":
        return objects[str(node.target)](*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def trace(model: nn.Module, example: Tensor) -> TorchGraph:
    """The graph of a model in eval mode.

    Args:
        example: an input with its batch, of which shape and dtype count.
    Raises:
        TraceFault: control flow or shapes depend on the data, or the model does not give one tensor.
    """
    with _plain_attention():
        tracer = _Tracer(example)
        try:
            graph = tracer.trace(model)
            _refuse_silent_changes(graph, tracer.objects)
            return TorchGraph(graph, tracer.objects, tracer.results)
        except FAULTS as error:
            # Only now: torch.export takes a second to import.
            from .exported_graph import export_graph

            try:
                return export_graph(model, example)
            except FAULTS:
                # What torch.fx said names the module; torch.export's reasons speak of its own insides.
                raise TraceFault(tracer.fault_path or "", _reason(error)) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, fx.proxy.TraceError) or "data-dependent" in text or type(error).__name__.startswith("DataDep"):
        return "its control flow or shapes depend on the values it is given (if, while, assert or int() on a tensor)"
    return f"{text:.300}"


def _refuse_silent_changes(graph: fx.Graph, objects: dict[str, Any]) -> None:
    """A node that nothing uses, but that changes a tensor others use: its place in the order would be lost."""
    for node in graph.nodes:
        if node.users or node.op in ("placeholder", "output", "get_attr"):
            continue
        layer = objects.get(str(node.target)) if node.op == "call_module" else None
        method = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).startswith("_")
        if method or node.kwargs.get("inplace") or getattr(layer, "inplace", False):
            raise TraceFault(node.meta["path"], f"`{node.target}` changes a tensor in place and its result is not used")


class _Tracer(fx.Tracer):
    """torch.fx's tracer with shapes, and with a record of what each module gave."""

    # Buffers become nodes like parameters, so that the graph names them instead of copying them.
    proxy_buffer_attributes = True

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.results: dict[str, list[fx.Node | None]] = {}
        self.objects: dict[str, Any] = {}
        self.fault_path: str | None = None
        self._evaluation = Evaluation(self.objects, example)
        self._paths = [""]
        # torch.fx intercepts every module's call and attributes, also those made to work out a node.
        self._working_out = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        own = (kind for kind in type(m).__mro__ if kind.__module__.startswith(("torch.nn.", "torch.ao.nn.")))
        return not any(True for _ in m.children()) or any(kind not in FRAMES for kind in own)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._working_out:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._paths.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except FAULTS:
            self.fault_path = self.fault_path if self.fault_path is not None else path
            raise
        finally:
            self._paths.pop()
        self.results.setdefault(path, []).append(result.node if isinstance(result, fx.Proxy) else None)
        return result

    def create_node(self, kind: str, target: Any, *rest: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, *rest, **named)
        node.meta["path"] = self._paths[-1]
        self._working_out = True
        try:
            if kind in ("call_module", "get_attr") and target not in self.objects:
                self.objects[target] = _at_path(self.root, target)
            self._evaluation.work_out(node)
        finally:
            self._working_out = False
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._working_out:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        # torch.fx would leave a constant as a new attribute of the user's model.
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            known = next((name for name, value in self.objects.items() if value is a), None)
            name = known or f"constant{len(self.objects)}"
            self.objects[name] = a
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ShapedProxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        values = obj.node.meta["values"]
        counts = {len(value) for value in values if isinstance(value, (tuple, list, Tensor))}
        if len(counts) != 1:
            return super().iter(obj)
        return iter([self.create_proxy("call_function", operator.getitem, (obj, k), {}) for k in range(counts.pop())])


class ShapedProxy(fx.Proxy):
    """A stand-in that knows its shape, dtype and device, as far as they do not depend on the batch."""

    def __getattr__(self, name: str) -> Any:
        values = self.node.meta["values"]
        if name in KNOWN and isinstance(values[0], Tensor):
            return getattr(values[0], name)
        if name == "shape" and isinstance(values[0], Tensor):
            return self._sides()
        return super().__getattr__(name)

    def size(self, dim: int | None = None) -> Any:
        """As of a tensor; a side that depends on the batch is a stand-in itself."""
        sides = self._sides()
        return sides if dim is None else sides[dim]

    def dim(self) -> int:
        """Number of sides."""
        return int(self.node.meta["values"][0].dim())

    ndimension = dim

    def __len__(self) -> int:
        counts = {len(value) for value in self.node.meta["values"]}
        if len(counts) > 1:
            raise TraceFault("", "it takes the length of something that depends on the batch")
        return counts.pop()

    def _sides(self) -> tuple[Any, ...]:
        first, second = (value.shape for value in self.node.meta["values"])
        if len(first) != len(second):
            raise TraceFault("", "how many sides a tensor has depends on the batch")
        return tuple(
            one if one == other else self.tracer.create_proxy("call_method", "size", (self, index), {})
            for index, (one, other) in enumerate(zip(first, second, strict=True))
        )


# Attributes of a tensor that the batch does not change.
KNOWN = frozenset(
    {"ndim", "dtype", "device", "is_cuda", "is_nested", "is_sparse", "is_quantized", "layout", "requires_grad"}
)


def _at_path(root: nn.Module, path: str) -> Any:
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name)
    return found


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """torch.nn's attention without its fused shortcut for inference, whose arithmetic no counter knows."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
