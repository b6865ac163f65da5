"""Data sets are read as their authors published them, and split so that no image is in two parts."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from delen.exits.datasets import Labelled, load

TRAIN, TEST = 10_030, 20


def write_idx(
    folder: Path, part: str, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], *, packed: bool
) -> None:
    magic = 2051 if values.ndim == 3 else 2049
    raw = struct.pack(f">{1 + values.ndim}i", magic, *values.shape) + values.tobytes()
    name = f"{part}-idx{values.ndim}-ubyte"
    if packed:
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw, compresslevel=1))
    else:
        (folder / name).write_bytes(raw)


@pytest.fixture(params=[False, True], ids=["plain", "gzipped"])
def fashion(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data set in Fashion-MNIST's form whose images are 1x2 and hold their own number, so that each is known."""
    for part, count, first in (("train", TRAIN, 0), ("t10k", TEST, 50_000)):
        numbers = np.arange(first, first + count)
        pixels = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)[:, None]
        write_idx(tmp_path, f"{part}-images", pixels, packed=request.param)
        write_idx(tmp_path, f"{part}-labels", (numbers % 10).astype(np.uint8), packed=request.param)
    return tmp_path


def numbers(part: Labelled) -> set[int]:
    return {int(first) * 256 + int(second) for first, second in part.images[:, 0, 0]}


def test_the_three_parts_share_no_image_and_leave_none_out(fashion: Path) -> None:
    split = load("fashion", fashion)
    parts = [numbers(part) for part in split.parts]
    assert [len(part) for part in parts] == [30, 10_000, TEST]
    assert parts[0] | parts[1] == set(range(TRAIN))
    assert parts[2] == set(range(50_000, 50_000 + TEST))


def test_labels_stay_with_their_images(fashion: Path) -> None:
    for part in load("fashion", fashion).parts:
        values = part.images[:, 0, 0].astype(np.int64) @ np.array([256, 1])
        np.testing.assert_array_equal(part.labels, values % 10)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert part.images.flags.writeable


def test_the_seed_alone_decides_what_is_held_out(fashion: Path) -> None:
    held = [numbers(load("fashion", fashion, seed=seed).calibration) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path, fashion: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        load("fashion", empty)
    for path in fashion.glob("t10k-labels*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels"):
        load("fashion", fashion)


def test_a_file_cut_short_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train-images", np.zeros((4, 2, 2), np.uint8), packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short: 15 bytes, expected 16"):
        load("fashion", tmp_path)
    path.write_bytes(struct.pack(">4i", 2049, 4, 2, 2) + bytes(16))
    with pytest.raises(ValueError, match="magic number is 2049"):
        load("fashion", tmp_path)


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(ValueError, match="no data set named 'cats'; known: fashion, digits"):
        load("cats")


@pytest.mark.slow
def test_digits_split_without_overlap() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install 'delen[train]'")
    split = load("digits")
    assert [len(part.labels) for part in split.parts] == [1077, 360, 360]
    assert all(part.images.shape[1:] == (1, 8, 8) for part in split.parts)
    assert int(split.train.images.max()) == 255
