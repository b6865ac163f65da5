"""The graph of a model that torch.fx cannot trace, by torch.export.

torch.export runs the model's Python as it is and records the operations below it, so that code which computes with the
size of the batch, makes tensors of that size or writes into slices is no obstacle. Its graph has no modules; which
module an operation belongs to is a note on it. Batch norms and dropout are what they are in inference, for good.

Flow: `export_graph(model, example)` -> `TorchGraph`, parameters and buffers still the model's own. Does not: cut.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from .torch_graph import Evaluation, TorchGraph, TraceFault

# Not 2, which is often the size of something else; rows beyond the first only show what is the batch.
EXPORT_BATCH = 5
NOISY = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")


def export_graph(model: nn.Module, example: Tensor) -> TorchGraph:
    """The graph of a model in eval mode.

    Raises:
        TraceFault: the model gives something else than one tensor, or keeps state between calls; torch.export raises
            others of `torch_graph.FAULTS`.
    """
    row = example[:1]
    rows = row.expand(EXPORT_BATCH, *row.shape[1:]).clone()
    with _quiet(), torch.no_grad():
        program = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
        program = program.run_decompositions({})
    results = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    if len(results) != 1 or len(program.graph_signature.output_specs) != 1:
        raise TraceFault("", "it gives several values, or keeps state between calls")
    exported = TorchGraph(*_plain(program, model), tracer="export")
    evaluation = Evaluation(exported.objects, example)
    for node in exported.graph.nodes:
        evaluation.work_out(node)
    exported.results.update(_results(exported.graph, model))
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns about its own insides and logs whole stacks of what it cannot do, besides raising it."""
    loggers = [logging.getLogger(name) for name in NOISY]
    states = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        # Some of it is printed.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, states, strict=True):
            logger.disabled = disabled


def _plain(program: Any, model: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    """The program's graph with one input: what it lifted out of the model become attributes again."""
    lifted = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    graph, objects = fx.Graph(), dict[str, Any]()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            copies[node] = graph.output(copies[node.args[0][0]])
            continue
        spec = lifted.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind is InputKind.USER_INPUT:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        else:
            objects[spec.target] = _lifted(program, model, spec)
            copies[node] = graph.get_attr(spec.target)
        copies[node].meta = {"path": _innermost(node), "stack": _stack(node)}
    return graph, objects


def _lifted(program: Any, model: nn.Module, spec: Any) -> Tensor:
    """The model's own tensor of that name, not the program's copy of it."""
    if spec.kind is InputKind.PARAMETER:
        return model.get_parameter(spec.target)
    if spec.kind is InputKind.BUFFER:
        return model.get_buffer(spec.target)
    constant: Tensor = program.constants[spec.target]
    return constant


def _stack(node: fx.Node) -> tuple[str, ...]:
    """Paths of the modules in whose forward a node stands, outermost first; a second call of one has `@1`."""
    return tuple(path for path, _ in node.meta.get("nn_module_stack", {}).values() if path)


def _innermost(node: fx.Node) -> str:
    return (_stack(node) or ("",))[-1].partition("@")[0]


def _results(graph: fx.Graph, model: nn.Module) -> dict[str, list[fx.Node | None]]:
    """Per module path and call, the one node in it that is used outside it."""
    given: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        for call in node.meta.get("stack", ()):
            if any(call not in user.meta.get("stack", ()) for user in node.users):
                given.setdefault(call, []).append(node)
    found: dict[str, list[fx.Node | None]] = {}
    for call, nodes in given.items():
        path = call.partition("@")[0]
        if path in dict(model.named_modules()):
            found.setdefault(path, []).append(nodes[0] if len(nodes) == 1 else None)
    return found
