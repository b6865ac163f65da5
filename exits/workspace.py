"""The directory that `delen attach` writes, and training and export read: a network still made of PyTorch.

`attached.toml` says how the network is made: from a model of the zoo (`zoo:resnet50`) or a function of the user's
(`package.module:function`), cut where, with which heads. `weights.safetensors` has all its weights, trunk and heads,
and in its notes who trained them. Flow: `save_workspace` -> `load_workspace` builds the model again, attaches as before
and fills in the weights -> `save_trained` puts newer weights in their place.

Loading a workspace runs the function that it names, as a Makefile runs what it names: load only your own. Weights are
never code. Does not: train, or export.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from ..clients.info import Preprocessing
from ..clients.toml_text import TomlFault, parse_toml_text
from ..clients.wire import DTYPES
from .attaching import AttachedExit, attach_described
from .heads import HeadKind
from .manifest import TensorShape
from .multi_exit import MultiExit
from .torch_graph import FAULTS
from .weights_file import WeightsError, read_weights, write_weights
from .whole_directory import write_durably, written

FORMAT = 1
PLAIN = Preprocessing()
ATTACHED, WEIGHTS = "attached.toml", "weights.safetensors"
ZOO_PREFIX = "zoo:"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# Token ids for examples: every table of words has as many.
EXAMPLE_WORDS = 2


class WorkspaceError(ValueError):
    """A workspace, or the source of one, that cannot be used; the text says which, why and what to do."""


class _AttachedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`attached.toml`."""

    format: int
    source: str
    at: tuple[str, ...]
    head: HeadKind
    classes: tuple[str, ...]
    input: TensorShape
    new_last_head: bool = False
    preprocessing: Preprocessing = Preprocessing()
    provenance: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A multi-exit network and all that is known of it.

    `network`: in eval mode. `source`: what builds its trunk. `at`: the modules that its exits come after, without the
    last exit. `input`: of one sample. `classes`: their names, "0", "1", … where nobody gave any. `provenance`: free
    text by key. `new_last_head`: the last head is as untrained as the others, not the model's own. `exits`: one per
    exit, the last included. `tracer`: see `attaching.Attached`.
    """

    network: MultiExit
    source: str
    at: tuple[str, ...]
    head: HeadKind
    classes: tuple[str, ...]
    input: TensorShape
    preprocessing: Preprocessing = PLAIN
    provenance: Mapping[str, str] = field(default_factory=dict)
    new_last_head: bool = False
    exits: tuple[AttachedExit, ...] = ()
    tracer: str = "fx"


def make_workspace(
    source: str,
    model: nn.Module,
    at: tuple[str, ...] | int,
    *,
    head: HeadKind,
    classes: tuple[str, ...] | None,
    form: TensorShape,
    preprocessing: Preprocessing,
    provenance: Mapping[str, str],
    new_last_head: bool = False,
) -> Workspace:
    """Attach exits to a model that `source` built.

    Args:
        classes: None numbers as many as the model gives.
        form: of one input.
        new_last_head: the model's own classifier is not trained, so it counts as one of the new heads.
    Raises:
        AttachError: see `attach`.
        WorkspaceError: the form of the input is none.
    """
    if form.dtype not in DTYPES or not form.shape or min(form.shape) < 1:
        raise WorkspaceError(
            f"no input is {form.dtype!r:.20} of shape {form.shape}; expected like float32, (3, 32, 32)"
        )
    wanted = None if classes is None else len(classes)
    attached = attach_described(model, at, example=example_of(form), head=head, classes=wanted)
    return Workspace(
        network=attached.network.eval(),
        source=source,
        at=tuple(one.path for one in attached.exits if one.path is not None),
        head=head,
        classes=classes or tuple(map(str, range(attached.classes))),
        input=form,
        preprocessing=preprocessing,
        provenance=dict(provenance),
        exits=attached.exits,
        tracer=attached.tracer,
        new_last_head=new_last_head or attached.new_last_head,
    )


def save_workspace(workspace: Workspace, out: Path, *, replace: bool = False) -> None:
    """Write a workspace directory, which appears whole or not at all.

    Raises:
        FileExistsError: `out` is there and `replace` is not set, or it is no workspace.
    """
    with written(out, ATTACHED, replace=replace) as hidden:
        write_durably(hidden / ATTACHED, _toml(workspace).encode())
        write_weights(hidden / WEIGHTS, workspace.network.state_dict())


def load_workspace(path: Path) -> Workspace:
    """Build the network that a workspace describes, with its weights.

    Raises:
        FileNotFoundError: there is no workspace.
        WorkspaceError: its file cannot be read, or its source cannot be built any more.
        AttachError: the source has changed and can no longer be cut there.
        WeightsError: the weights are damaged or another network's.
    """
    said = _read_attached(path)
    classes = said.classes
    workspace = make_workspace(
        said.source,
        build_source(said.source, len(classes)),
        said.at,
        head=said.head,
        classes=classes,
        form=said.input,
        preprocessing=said.preprocessing,
        provenance=said.provenance,
        new_last_head=said.new_last_head,
    )
    weights = read_weights(path / WEIGHTS)
    fill(workspace.network, weights.tensors, str(path / WEIGHTS))
    return replace(workspace, provenance={**said.provenance, **weights.notes})


def save_trained(path: Path, network: MultiExit, provenance: Mapping[str, str]) -> None:
    """Put newer weights into a workspace, in one step. `provenance`: how they came about, kept with them."""
    write_weights(path / WEIGHTS, network.state_dict(), provenance)


def is_workspace(path: Path) -> bool:
    """Whether a directory says that it is one."""
    return (path / ATTACHED).is_file()


def build_source(source: str, classes: int | None, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The plain model of a source.

    Args:
        source: `zoo:NAME`, or `package.module:function`, called without arguments; the directory delen runs in counts
            as a place of modules.
        classes: for the zoo; None takes as many as the published weights have. A function knows its own.
        state: weights to start from.
    Raises:
        WorkspaceError: it cannot be built. ZooError: no such network, or weights of another. WeightsError: likewise.
    """
    if source.startswith(ZOO_PREFIX):
        from .zoo import build_zoo

        return build_zoo(source.removeprefix(ZOO_PREFIX), classes=classes, state=state)
    model = _call(source)
    if state is not None:
        fill(model, state, "the file of weights")
    return model


def example_of(form: TensorShape) -> Tensor:
    """A made-up input of this kind, batch 1, always the same: noise, or small whole numbers where ids are taken."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = (1, *form.shape), getattr(torch, form.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, EXAMPLE_WORDS, shape, generator=generator).to(dtype)


def fill(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights; every one must be there and fit. Raises WeightsError, which names the first few that do not."""
    ours = module.state_dict()
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    # Checkpoints from before batch norms counted their batches lack the counts.
    missing = [f"{name} is missing" for name in ours if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [f"{name} is not known" for name in state if name not in ours]
    faults = [*wrong, *missing, *unknown]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"{what}: of another network: {'; '.join(faults[:3])}{more}", "take the weights of exactly this model"
        )
    module.load_state_dict(dict(state), strict=False)


def _call(source: str) -> nn.Module:
    if not _FUNCTION.fullmatch(source):
        raise WorkspaceError(f"{source!r:.80} is no source; expected zoo:NAME or package.module:function")
    name, _, function = source.partition(":")
    with _modules_here():
        try:
            made = getattr(importlib.import_module(name), function)()
        except (ImportError, *FAULTS) as error:
            raise WorkspaceError(
                f"{source} does not build a model: {type(error).__name__}: {error}; it is imported from the directory "
                "delen runs in or from what is installed, and called without arguments"
            ) from error
    if not isinstance(made, nn.Module):
        raise WorkspaceError(f"{source} gives a {type(made).__name__}; expected a torch.nn.Module")
    return made


@contextmanager
def _modules_here() -> Iterator[None]:
    """A console script does not look for modules in the directory that it is run in."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _read_attached(path: Path) -> _AttachedFile:
    file = path / ATTACHED
    try:
        loose: dict[str, Any] = parse_toml_text(file.read_bytes())
        said = msgspec.convert(loose, _AttachedFile)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} has no {ATTACHED}, so it is no workspace; make one: delen attach") from error
    except (TomlFault, msgspec.ValidationError) as error:
        raise WorkspaceError(f"{file} cannot be read: {error}; correct it, or attach again") from error
    if said.format != FORMAT:
        raise WorkspaceError(f"{file}: format is {said.format}; this delen reads {FORMAT}: attach again with it")
    return said


def _toml(workspace: Workspace) -> str:
    """Every value is a string, a number or a list of these, so JSON's spelling serves."""
    rule = workspace.preprocessing
    lines = [
        f"format = {FORMAT}",
        "# zoo:NAME, or package.module:function, which is run whenever this workspace is loaded",
        *(f"{key} = {_spell(getattr(workspace, key))}" for key in ("source", "at", "head", "classes", "new_last_head")),
        "",
        "[input]",
        f"dtype = {_spell(workspace.input.dtype)}",
        f"shape = {_spell(workspace.input.shape)}",
        "",
        "# value to the network: (value * scale - mean) / std",
        "[preprocessing]",
        *(f"{key} = {_spell(getattr(rule, key))}" for key in ("colour", "scale", "mean", "std")),
        "",
        "[provenance]",
        *(f"{_spell(key)} = {_spell(value)}" for key, value in workspace.provenance.items()),
    ]
    return "\n".join(lines) + "\n"


def _spell(value: Any) -> str:
    # 0x7f is the one character that JSON leaves bare and TOML forbids.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).replace("\x7f", "\\u007f")
