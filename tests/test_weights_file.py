"""Weights are arrays and never code: pickles are refused by what they are, and converted only when asked."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")
pytest.importorskip("safetensors", reason="needs safetensors: pip install 'delen[train]'")

from delen.exits.weights_file import WeightsError, convert_pickle, read_weights, write_weights  # noqa: E402

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def same(given: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)


def test_weights_come_back_with_their_notes_even_tied_and_turned(tmp_path: Path) -> None:
    tied = {**STATE, "b.weight": STATE["a.weight"], "turned": STATE["a.weight"].t()}
    write_weights(tmp_path / "w.safetensors", tied, {"by": "nobody"})
    tensors, notes = read_weights(tmp_path / "w.safetensors")
    assert same(tensors, tied)
    assert notes == {"by": "nobody"}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_npz_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in STATE.items()})
    assert same(read_weights(tmp_path / "w.npz").tensors, STATE)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.th", "w.bin", "w.safetensors", "w.npz"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_whatever_it_is_called(name: str, zipped: bool, tmp_path: Path) -> None:
    torch.save({"bomb": Bomb(tmp_path / "went off")}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="is a pickle") as refused:
        read_weights(tmp_path / name)
    assert f"delen convert-weights {tmp_path / name}" in refused.value.hint
    with pytest.raises(WeightsError, match="cannot be taken apart as tensors alone"):
        convert_pickle(tmp_path / name)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_conversion_takes_off_levels_and_prefixes_and_says_so(zipped: bool, tmp_path: Path) -> None:
    wrapped = OrderedDict((f"module.{name}", value) for name, value in STATE.items())
    checkpoint = {"epoch": 3, "state_dict": {**wrapped, "module.version": 2}}
    torch.save(checkpoint, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    converted = convert_pickle(tmp_path / "w.pth")
    assert same(converted.tensors, STATE)
    assert converted.done == (
        "took the level `state_dict`, left epoch",
        "left out what is no tensor: module.version",
        "took `module.` off every name",
    )


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(mixed, tmp_path / "w.pth")
    assert same(convert_pickle(tmp_path / "w.pth").tensors, mixed)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.safetensors", b"", "cannot be read"),
        ("w.safetensors", b"\xff" * 64, "cannot be read"),
        ("w.npz", b"hello", "cannot be read: it is no .npz archive"),
        ("w.txt", b"hello", "expected .safetensors or .npz, not '.txt'"),
    ],
)
def test_damaged_files_are_refused_by_name(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_weights(tmp_path / name)


def test_what_is_no_state_dict_is_not_converted(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        convert_pickle(tmp_path / "w.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot be taken apart"):
        convert_pickle(tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError):
        convert_pickle(tmp_path / "none.pth")


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "w.safetensors", STATE)

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_weights(tmp_path / "w.safetensors", {"other": torch.ones(1)})
    assert same(read_weights(tmp_path / "w.safetensors").tensors, STATE)
    assert len(list(tmp_path.iterdir())) == 1
