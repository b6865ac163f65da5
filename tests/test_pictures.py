"""Files as inputs: arrays as they are, pictures resized and scaled, and refusals that name the file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from delen.clients.errors import BadFile
from delen.clients.info import NetworkInfo, Preprocessing
from delen.clients.pictures import prepare, read_inputs
from delen.tests.fake_daemon import PHOTO, TOY

SMALL = msgspec.structs.replace(
    PHOTO, shape=(3, 2, 4), preprocessing=Preprocessing("rgb", 1.0, (1.0, 2.0, 3.0), (2.0,))
)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    image.fromarray(pixels).convert(mode or image.fromarray(pixels).mode).save(path)
    return path


def test_a_gray_picture_is_scaled_as_the_network_says(tmp_path: Path) -> None:
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    (x,) = read_inputs(saved(tmp_path / "a.png", pixels), TOY)
    assert x.dtype == np.float32
    assert x.shape == (1, 2, 2)
    np.testing.assert_allclose(x[0], (pixels / 255 - 0.5) / 0.25, rtol=1e-5)


def test_channels_come_first_each_with_its_own_mean(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    (x,) = read_inputs(saved(tmp_path / "a.png", pixels), SMALL)
    np.testing.assert_allclose(x, (pixels.transpose(2, 0, 1) - np.array([1, 2, 3])[:, None, None]) / 2)


def test_a_picture_is_resized_and_its_colours_converted(tmp_path: Path) -> None:
    pixels = np.full((50, 30, 3), 51, np.uint8)
    (gray,) = read_inputs(saved(tmp_path / "a.png", pixels), TOY)
    np.testing.assert_allclose(gray, (0.2 - 0.5) / 0.25, rtol=1e-5)
    (colour,) = read_inputs(saved(tmp_path / "b.jpg", pixels[:, :, 0]), SMALL)
    assert colour.shape == (3, 2, 4)
    (clear,) = read_inputs(saved(tmp_path / "c.png", pixels, "RGBA"), SMALL)
    np.testing.assert_allclose(clear[0], 25)


def test_an_array_file_gives_one_input_or_many(tmp_path: Path) -> None:
    one = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "many.npy", np.stack([one, one + 1]))
    np.testing.assert_array_equal(read_inputs(tmp_path / "one.npy", TOY), [one])
    np.testing.assert_array_equal(read_inputs(tmp_path / "many.npy", TOY), [one, one + 1])


def test_pixels_of_an_integer_network_stay_as_they_are() -> None:
    integers: NetworkInfo = msgspec.structs.replace(TOY, dtype="uint8")
    pixels = np.array([[[0, 255], [51, 102]]], np.uint8)
    np.testing.assert_array_equal(prepare(pixels, integers), pixels)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "shape.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "bytes.npy", np.zeros((1, 2, 2), np.uint8))
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 2, 2), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "shape.npy").read_bytes()[:-4])
    (tmp_path / "empty.npy").touch()
    for name in ("objects", "shape", "bytes", "none", "cut", "empty"):
        with pytest.raises(BadFile, match=f"{name}.npy"):
            read_inputs(tmp_path / f"{name}.npy", TOY)


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="reading pictures needs Pillow")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(BadFile, match=r"text\.png"):
        read_inputs(tmp_path / "text.png", TOY)
    with pytest.raises(FileNotFoundError):
        read_inputs(tmp_path / "missing.png", TOY)


def test_a_picture_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path / "cut.png", noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadFile, match=r"cut\.png"):
        read_inputs(path, SMALL)


def test_a_picture_too_large_to_unpack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delen.clients.pictures.PIXELS_MAX", 100)
    with pytest.raises(BadFile, match="at most 100"):
        read_inputs(saved(tmp_path / "big.png", np.zeros((20, 20), np.uint8)), TOY)


def test_a_network_that_takes_no_pictures_says_so(tmp_path: Path) -> None:
    plain: NetworkInfo = msgspec.structs.replace(TOY, preprocessing=Preprocessing())
    with pytest.raises(BadFile, match="takes no pictures"):
        read_inputs(tmp_path / "a.png", plain)
