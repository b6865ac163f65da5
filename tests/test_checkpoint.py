"""A checkpoint is whole or not there, and what is damaged or another training's is said."""

from __future__ import annotations

import io
import zipfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from delen.exits.checkpoint import Checkpoint, CheckpointError, write_arrays  # noqa: E402  (after the skip above)
from delen.exits.train import fit  # noqa: E402
from delen.tests.small_training import PLAN, finished, small_data, small_network  # noqa: E402


def saved(path: Path) -> Checkpoint:
    """A checkpoint after the first epoch."""
    place = Checkpoint(path)
    progress = fit(small_network(), small_data(), PLAN, checkpoint=place)
    for _ in range(6):
        next(progress)
    progress.close()
    return place


def test_it_tells_how_far_training_was_and_holds_nothing_that_could_run(tmp_path: Path) -> None:
    place = saved(tmp_path / "c.npz")
    assert place.position() == (1, 0)
    with np.load(tmp_path / "c.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype.kind in "fiu" for name in archive.files)
    place.remove()
    assert place.position() is None


def test_it_is_saved_every_minute_inside_an_epoch(tmp_path: Path) -> None:
    clock = count(0, 25)
    place = Checkpoint(tmp_path / "c.npz", clock=lambda: next(clock))
    progress = fit(small_network(), small_data(), PLAN, checkpoint=place)
    # Made at 0 s, asked after each step: 25, 50, 75 s.
    for _ in range(3):
        next(progress)
    assert place.position() is None
    next(progress)
    assert place.position() == (0, 3)
    progress.close()


def test_a_write_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = saved(tmp_path / "c.npz")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        finished(fit(small_network(), small_data(), PLAN, checkpoint=place))
    assert place.position() == (1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def damaged(path: Path, how: str) -> None:
    raw = path.read_bytes()
    if how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "text":
        path.write_bytes(b"hello")
    elif how == "header":
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        write_arrays(path, arrays | {"header": np.frombuffer(b'{"epoch": 1}', np.uint8)})
    elif how == "lacking":
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files if "momentum" not in name and "order" not in name}
        write_arrays(path, arrays)
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("learner/pickled.npy", buffer.getvalue())


@pytest.mark.parametrize("how", ["cut", "text", "header", "lacking", "object"])
def test_a_damaged_one_is_refused_with_the_way_out(tmp_path: Path, how: str) -> None:
    place = saved(tmp_path / "c.npz")
    damaged(place.path, how)
    with pytest.raises(CheckpointError, match=r"c\.npz is damaged .*begin anew with --restart"):
        finished(fit(small_network(), small_data(), PLAN, checkpoint=place))
