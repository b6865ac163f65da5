"""What is tried before and after cutting a model: that it runs, and that its parts give what it gives.

Flow: `try_alone` runs the model as it is -> `attaching.py` cuts it -> `compare` runs parts and model side by side, at
one row and at three, which no trace has seen together. Does not: cut, or explain where a graph cannot be cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from .multi_exit import MultiExit
from .torch_graph import FAULTS

DIFFERENCE_MAX = 1e-5
# Rows of one batch differ by more than arithmetic in another order explains.
COUPLING_MAX = 1e-3
# Rows with which a batch is tried: not those of the tracer.
MANY = 3


class AttachError(ValueError):
    """The model cannot be made a multi-exit network like this; the text names the module and the reason."""


def try_alone(model: nn.Module, example: Tensor) -> None:
    """Run the model as it is, on one input and on three. Raises AttachError where it does not run, or its answer is no
    logits, shape (batch, classes).
    """
    if example.dim() < 2:
        raise AttachError("the example is no input with its batch; expected a tensor like torch.rand(1, 3, 32, 32)")
    for batch in (example[:1], example[:1].expand(MANY, *example.shape[1:])):
        with _followed(model) as running, torch.no_grad():
            try:
                given = model(batch.clone())
            except FAULTS as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                where = f" (in {running[-1]})" if running else ""
                advice = (
                    "correct the shape" if len(batch) == 1 else "its code fixes the batch size: use x.shape[0] or -1"
                )
                raise AttachError(
                    f"the model does not run on an input of shape {tuple(batch.shape)}: {reason:.300}{where}; {advice}"
                ) from error
        good = isinstance(given, Tensor) and given.dim() == 2 and given.is_floating_point()
        if not good or len(given) != len(batch):
            what = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise AttachError(
                f"the model gives {what} for {len(batch)} inputs; expected logits, shape (batch, classes): wrap it in "
                "a module that gives these alone"
            )


@contextmanager
def _followed(model: nn.Module) -> Iterator[list[str]]:
    """The paths of modules whose forward is running, outermost first; after an exception, where it came from."""
    running: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
            hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def compare(network: MultiExit, model: nn.Module, example: Tensor, classes: int) -> None:
    """Run model and parts on one row and on three. Raises AttachError where they differ, or rows affect each other."""
    row = example[:1]
    batches = [row, torch.cat([row, row.flip(-1), row.roll(1, -1)])]  # MANY rows
    with torch.no_grad():
        wanted = [model(batch.clone()) for batch in batches]
        scale = max(1.0, float(wanted[0].abs().max()))
        if float((wanted[1][:1] - wanted[0]).abs().max()) > COUPLING_MAX * scale:
            raise AttachError(
                "the model's answer to an input depends on what else is in the batch, or on chance; delen batches "
                "requests of different tenants: make it independent in eval mode"
            )
        for batch, logits in zip(batches, wanted, strict=True):
            given = _run_parts(network, batch.clone(), classes)
            if logits.shape[1] != classes:
                continue
            difference = float((given - logits).abs().max()) if given.shape == logits.shape else float("inf")
            if not difference <= DIFFERENCE_MAX * scale:
                raise AttachError(
                    f"the parts give another answer than the model for {len(batch)} inputs, by {difference:.2g}: it "
                    "fixes the size of the batch, keeps state between calls, or changes tensors in place"
                )


def _run_parts(network: MultiExit, features: Tensor, classes: int) -> Tensor:
    """The last exit's logits. A segment that changes its input in place gets a copy from now on: heads take it too."""
    logits = features
    for index, (segment, head) in enumerate(zip(network.segments, network.heads, strict=True)):
        try:
            version = features._version
            given = segment(features)
            if features._version != version and isinstance(segment, fx.GraphModule):
                _copy_input(segment)
            features = given
            logits = head(features)
        except FAULTS as error:
            reason = " ".join(str(error).split())
            raise AttachError(f"exit {index} does not run on {len(features)} inputs: {reason:.300}") from error
        if logits.shape != (len(features), classes):
            raise AttachError(
                f"head {index} gives shape {tuple(logits.shape)} for {len(features)} inputs; expected "
                f"{(len(features), classes)}"
            )
    return logits


def _copy_input(segment: fx.GraphModule) -> None:
    (taken,) = (node for node in segment.graph.nodes if node.op == "placeholder")
    with segment.graph.inserting_after(taken):
        copied = segment.graph.call_method("clone", (taken,))
    taken.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    segment.recompile()
