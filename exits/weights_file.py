"""Files of weights: which are read, how they are written, and the one place where a pickle is opened at all.

Flow: `read_weights(path)` takes .safetensors and .npz, which hold arrays and nothing else. What `torch.save` writes
(.pt, .pth, .th, .bin, .ckpt) is a pickle, a program that runs when it is loaded: refused, with the command that
converts it. `convert_pickle` is that command's work: PyTorch's weights-only loader, which builds tensors and refuses
everything else.

Does not: know whose weights they are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, _weights_only_unpickler

from ..clients.durable import write_whole

PICKLE_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
# Where checkpoints keep the weights, besides the optimiser and the like.
LEVELS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
# What wrappers for several GPUs, for averaging and for compiling put before every name.
PREFIXES = ("module.", "_orig_mod.")
# What damaged and hostile files make their readers raise.
UNREADABLE = (
    # PyTorch's own name for it: importing the module that it comes from is not allowed here.
    _weights_only_unpickler.UnpicklingError,  # type: ignore[attr-defined]
    *(SafetensorError, zipfile.BadZipFile, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError),
)


class WeightsError(ValueError):
    """A file of weights that cannot be used; the text says which and why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Weights(NamedTuple):
    """Tensors by name, and free text by key."""

    tensors: dict[str, Tensor]
    notes: dict[str, str]


class Converted(NamedTuple):
    """What a pickle held: the tensors, what was done to their names, and what was left out, both in words."""

    tensors: dict[str, Tensor]
    done: tuple[str, ...]


def read_weights(path: Path) -> Weights:
    """Read a .safetensors or .npz file.

    Raises:
        FileNotFoundError: it is not there.
        WeightsError: it is a pickle, damaged, or neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected weights, .safetensors or .npz")
    kind = path.suffix.lower()
    if kind not in (".safetensors", ".npz") or _looks_pickled(path):
        if kind in PICKLE_SUFFIXES or _looks_pickled(path):
            raise WeightsError(
                f"{path} is a pickle, which can run any program when it is loaded; it is not read",
                f"`delen convert-weights {path} {path.with_suffix('.safetensors').name}` takes the tensors alone",
            )
        raise WeightsError(f"{path} is no file of weights: expected .safetensors or .npz, not {kind or 'no suffix'!r}")
    try:
        return _read_npz(path) if kind == ".npz" else _read_safetensors(path)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} cannot be read: {reason:.200}", "it is damaged: make or fetch it again") from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file; it is there whole or not at all, and an older one stays until it is."""
    # Tensors that share memory are written once per name: reading stays simple, and loading ties them again.
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata=dict(notes or {})))


def convert_pickle(path: Path) -> Converted:
    """Take the tensors out of what `torch.save` wrote, with PyTorch's weights-only loader.

    Raises:
        FileNotFoundError: it is not there.
        WeightsError: it holds more than tensors and plain values, or no tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected what torch.save wrote, .pth or .pt")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _refused(path, error) from error
    done: list[str] = []
    state = _innermost(loaded, done)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name", "save model.state_dict(), not the model")
    if left := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        done.append(f"left out what is no tensor: {', '.join(left[:8])}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            done.append(f"took `{prefix}` off every name")
    return Converted({name: value.contiguous() for name, value in tensors.items()}, tuple(done))


def _innermost(loaded: Any, done: list[str]) -> Mapping[Any, Any]:
    while isinstance(loaded, Mapping):
        level = next((name for name in LEVELS if isinstance(loaded.get(name), Mapping)), None)
        if level is None:
            return loaded
        others = ", ".join(str(name) for name in loaded if name != level)
        done.append(f"took the level `{level}`" + (f", left {others}" if others else ""))
        loaded = loaded[level]
    return {}


def _refused(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())
    # PyTorch goes on to explain how to load such a file unsafely.
    for cut in ("(1)", "Please file", "Check the documentation", "We recommend"):
        reason = reason.partition(cut)[0]
    return WeightsError(
        f"{path} cannot be taken apart as tensors alone: {reason.strip():.300}",
        "where you trust its origin, load it yourself and save model.state_dict(), or save it as .safetensors",
    )


def _looks_pickled(path: Path) -> bool:
    """Whether the contents are a pickle, whatever the file is called."""
    with path.open("rb") as stream:
        start = stream.read(2)
    # The opcode PROTO and a version: of torch.save before 1.6. A zip with a data.pkl: since.
    if len(start) == 2 and start[0] == 0x80 and start[1] <= 5:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


def _read_npz(path: Path) -> Weights:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz archive")
    with np.load(path, allow_pickle=False) as archive:
        return Weights({name: torch.from_numpy(archive[name]) for name in archive.files}, {})


def _read_safetensors(path: Path) -> Weights:
    with safe_open(path, framework="pt", device="cpu") as archive:
        notes = archive.metadata() or {}
        return Weights({name: archive.get_tensor(name) for name in archive.keys()}, notes)  # noqa: SIM118
