"""Whatever files a user has become one split, and what is wrong with them is said before anything is trained."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.data_arrays import read_arrays
from delen.exits.data_audio import read_sounds, read_wav
from delen.exits.data_cifar import CLASSES, read_binary
from delen.exits.data_files import check_split, open_data
from delen.exits.data_pictures import read_pictures
from delen.exits.datasets import DataError, Labelled, Parts, Split, complete

Bytes = npt.NDArray[np.uint8]


def numbered(count: int, first: int = 0) -> Labelled:
    """Inputs that hold their own number, labels its remainder by 3."""
    numbers = np.arange(first, first + count)
    return Labelled(numbers[:, None].astype(np.float32), numbers % 3)


def test_what_files_do_not_divide_is_held_out_once() -> None:
    split = complete(Parts(numbered(100)), seed=3)
    assert [len(part.labels) for part in split.parts] == [64, 16, 20]
    assert sorted(np.concatenate([part.images[:, 0] for part in split.parts])) == list(range(100))
    again, other = complete(Parts(numbered(100)), seed=3), complete(Parts(numbered(100)), seed=4)
    np.testing.assert_array_equal(split.calibration.images, again.calibration.images)
    assert split.calibration.images.tolist() != other.calibration.images.tolist()


def test_parts_that_files_have_stay_as_they_are() -> None:
    given = Parts(numbered(10), numbered(5, 10), numbered(6, 15))
    assert [part.images[0, 0] for part in complete(given, 0).parts] == [0, 10, 15]
    assert [len(part.labels) for part in complete(given, 0).parts] == [10, 5, 6]


def test_calibrating_on_the_test_part_halves_it_and_trains_on_everything() -> None:
    split = complete(Parts(numbered(10), test=numbered(8, 10)), 0, "test")
    assert len(split.train.labels) == 10
    halves = [set(part.images[:, 0].tolist()) for part in (split.calibration, split.test)]
    assert [len(half) for half in halves] == [4, 4]
    assert halves[0] | halves[1] == set(range(10, 18))
    with pytest.raises(DataError, match="no test part"):
        complete(Parts(numbered(10)), 0, "test")
    with pytest.raises(DataError, match="its own calibration part"):
        complete(Parts(numbered(10), numbered(5), numbered(5)), 0, "test")


# Arrays


def test_arrays_are_found_by_their_names_and_pictures_brought_into_order(tmp_path: Path) -> None:
    labels = np.arange(60) % 2
    pictures = np.arange(60 * 4 * 5 * 3).reshape(60, 4, 5, 3).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=pictures, labels=labels, x_test=pictures[:9], y_test=labels[:9])
    split = open_data(tmp_path / "a.npz")
    assert [part.images.shape for part in split.parts] == [(48, 3, 4, 5), (12, 3, 4, 5), (9, 3, 4, 5)]
    np.testing.assert_array_equal(split.test.images, pictures[:9].transpose(0, 3, 1, 2))
    np.savez(tmp_path / "gray.npz", x=pictures[..., 0], y=labels[:, None], classes=["cat", "dog"])
    gray = read_arrays(tmp_path / "gray.npz")
    assert gray.train.images.shape == (60, 1, 4, 5)
    assert gray.classes == ("cat", "dog")
    np.savez(tmp_path / "words.npz", x=np.ones((60, 8), np.int32), y=labels)
    assert read_arrays(tmp_path / "words.npz", (8,)).train.images.dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.zeros((3, 2))}, "has x but neither of y, labels, y_train"),
        ({"z": np.zeros((3, 2))}, "has z; expected `x` and `y`"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, r"y is float64\(3,\); expected whole numbers"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, "expected as many rows of both"),
        ({"x": np.array([["a"], ["b"]]), "y": np.zeros(2, int)}, "expected bytes, floats or integers"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2, int)}, "cannot be read: .*without objects in it"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], what: str
) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=what):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04 cut short", b"\x80\x04pickle"])
def test_files_that_are_no_arrays_are_refused_unread(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"no \.npz file"):
        open_data(tmp_path / "a.npz")


# Labels and shapes


def split_of(images: npt.NDArray[np.generic], labels: list[int]) -> Split:
    part = Labelled(images, np.array(labels))
    return Split(part, part, part)


def test_labels_out_of_range_and_missing_classes_are_said_with_their_place() -> None:
    inputs = np.zeros((3, 2), np.float32)
    with pytest.raises(DataError, match=r"label 3 at row 1 of the training part \(1 such\); there are 3 classes"):
        check_split(split_of(inputs, [0, 3, 1]), ("a", "b", "c"))
    with pytest.raises(DataError, match="label -1 at row 2"):
        check_split(split_of(inputs, [0, 2, -1]), ("a", "b", "c"))
    with pytest.raises(DataError, match=r"no sample of 2 of 4 classes \(b, d\)"):
        check_split(split_of(inputs, [0, 2, 2]), ("a", "b", "c", "d"))


def test_inputs_must_fit_the_network() -> None:
    split = split_of(np.zeros((3, 2), np.float32), [0, 1, 0])
    check_split(split, ("a", "b"), shape=(2,), dtype="float32")
    with pytest.raises(DataError, match=r"inputs of shape \(2,\); the network takes \(3, 8, 8\)"):
        check_split(split, ("a", "b"), shape=(3, 8, 8))
    with pytest.raises(DataError, match="inputs of float32; the network takes int64"):
        check_split(split, ("a", "b"), dtype="int64")
    with pytest.raises(DataError, match=r"calibration part has inputs of shape \(3,\), the training part of \(2,\)"):
        check_split(split._replace(calibration=split_of(np.zeros((3, 3)), [0, 1, 0]).train), ("a", "b"))
    broken = np.array([[0, 1], [2, np.nan], [3, 4]], np.float32)
    with pytest.raises(DataError, match="input 1 of the training part holds NaN"):
        check_split(split_of(broken, [0, 1, 0]), ("a", "b"))
    with pytest.raises(DataError, match="3 samples to calibrate on; at least 230 are needed"):
        check_split(split, ("a", "b"), calibration_count_min=230)


def test_class_names_in_another_order_are_refused() -> None:
    split = split_of(np.zeros((2, 2)), [0, 1])._replace(classes=("dog", "cat"))
    check_split(split, ("dog", "cat"))
    check_split(split, ("0", "1"))
    with pytest.raises(DataError, match="the same in another order; expected cat, dog"):
        check_split(split, ("cat", "dog"))
    with pytest.raises(DataError, match="bird, dog only on one side"):
        check_split(split, ("bird", "cat"))


def test_what_is_no_data_set_is_said_with_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data at .*nowhere; expected an \.npz file"):
        open_data(tmp_path / "nowhere")
    (tmp_path / "weights.pt").write_bytes(b"\x80")
    (tmp_path / "empty").mkdir()
    for name in ("weights.pt", "empty"):
        with pytest.raises(DataError, match="no data set"):
            open_data(tmp_path / name)


# CIFAR-10


def write_cifar(folder: Path, rows: int) -> Bytes:
    generator = np.random.default_rng(0)
    written = []
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = generator.integers(0, 256, (rows, 3073), dtype=np.uint8)
        batch[:, 0] = np.arange(rows) % 10
        (folder / f"{name}.bin").write_bytes(batch.tobytes())
        written.append(batch)
    return np.stack(written)


def test_cifar_binary_files_are_read_as_they_are_documented(tmp_path: Path) -> None:
    written = write_cifar(tmp_path, 200)
    parts = read_binary(tmp_path)
    assert parts.test is not None
    assert parts.train.images.shape == (1000, 3, 32, 32)
    assert parts.train.images[205, 2, 31, 7] == written[1, 5, 1 + 2 * 1024 + 31 * 32 + 7]
    np.testing.assert_array_equal(parts.test.labels, written[5, :, 0])
    assert open_data(tmp_path, calibrate_on="test").classes == CLASSES
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 2 - 1))
    with pytest.raises(DataError, match=r"test_batch\.bin is cut short: 6145 bytes"):
        open_data(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing"):
        open_data(tmp_path)


def test_cifar_sheets_give_the_same_as_binary_files(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow: pip install 'delen[pictures]'")
    written = write_cifar(tmp_path, 200)
    expected = read_binary(tmp_path)
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    for index, batch in enumerate(written):
        name = f"data_batch_{index + 1}.png" if index < 5 else "test_batch.png"
        pixels = batch[:, 1:].reshape(200, 3, 1024).transpose(0, 2, 1)
        image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / name)
    (tmp_path / "train_lables.json").write_text(json.dumps(written[:5, :, 0].reshape(-1).tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(written[5, :, 0].tolist()))
    split = open_data(tmp_path, calibrate_on="test")
    np.testing.assert_array_equal(split.train.images, expected.train.images)
    np.testing.assert_array_equal(split.train.labels, expected.train.labels)
    (tmp_path / "test_lables.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"test_lables\.json has 2 labels for 200 images"):
        open_data(tmp_path)
    (tmp_path / "data_batch_2.png").write_bytes(b"\x89PNG cut")
    with pytest.raises(DataError, match=r"data_batch_2\.png is no picture"):
        open_data(tmp_path)


def test_python_batches_are_refused_because_they_are_pickles(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match=r"is a pickle, which can run code.*binary version"):
        open_data(tmp_path)


# Folders


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten pictures each, dark cats and bright dogs, 6x4 pixels."""
    image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow: pip install 'delen[pictures]'")
    for name, shade in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for index in range(10):
            pixels = np.full((4, 6, 3), shade + index, np.uint8)
            image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_folders_of_pictures_are_classes_in_the_order_of_their_names(pictures: Path) -> None:
    (pictures / "cat" / "Thumbs.db").write_bytes(b"")
    split = open_data(pictures)
    assert split.classes == ("cat", "dog")
    assert split.train.images.shape[1:] == (3, 4, 6)
    for part in split.parts:
        np.testing.assert_array_equal(part.labels, part.images[:, 0, 0, 0] >= 200)
    assert open_data(pictures, shape=(1, 8, 8)).train.images.shape[1:] == (1, 8, 8)


def test_folders_may_have_parts(pictures: Path) -> None:
    (pictures / "train").mkdir()
    for name in ("cat", "dog"):
        (pictures / name).rename(pictures / "train" / name)
        for part, file in (("val", "0.png"), ("test", "1.png")):
            (pictures / part / name).mkdir(parents=True)
            (pictures / "train" / name / file).rename(pictures / part / name / file)
    split = open_data(pictures)
    assert [len(part.labels) for part in split.parts] == [16, 2, 2]
    assert sorted(split.calibration.images[:, 0, 0, 0].tolist()) == [10, 200]
    (pictures / "val" / "bird").mkdir()
    with pytest.raises(DataError, match="val/bird: the training part has no class of this name; it has cat, dog"):
        open_data(pictures)
    (pictures / "extra").mkdir()
    (pictures / "val" / "bird").rmdir()
    with pytest.raises(DataError, match="is no part of a data set"):
        open_data(pictures)


def test_pictures_that_cannot_be_used_are_named(pictures: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow: pip install 'delen[pictures]'")
    image.new("RGB", (6, 5)).save(pictures / "cat" / "tall.png")
    with pytest.raises(DataError, match=r"tall\.png is 6x5 pixels, 0\.png 6x4"):
        open_data(pictures)
    with pytest.raises(DataError, match=r"cannot feed a network that takes \(128,\)"):
        open_data(pictures, shape=(128,))
    (pictures / "cat" / "tall.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"tall\.png is no picture that can be read"):
        read_pictures([pictures / "cat" / "tall.png"], None)
    (pictures / "cat" / "tall.png").rename(pictures / "cat" / "notes.doc")
    with pytest.raises(DataError, match=r"notes\.doc is not one of .*as the others are"):
        open_data(pictures)


# Sounds


def wav(form: int, bits: int, frames: bytes, *, channels: int = 1, rate_hz: int = 8000) -> bytes:
    frame_bytes = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, bits)
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in ((b"fmt ", head), (b"data", frames)))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


VALUES = np.array([0, 0.5, -1, 0.25], np.float32)


@pytest.mark.parametrize(
    ("form", "bits", "coded"),
    [
        (1, 8, lambda v: (v * 127 + 128).round().astype(np.uint8).tobytes()),
        (1, 16, lambda v: (v * 32767).round().astype("<i2").tobytes()),
        (1, 24, lambda v: b"".join(int(x * 8388607).to_bytes(3, "little", signed=True) for x in v)),
        (1, 32, lambda v: (v.astype(float) * 2147483647).round().astype("<i4").tobytes()),
        (3, 32, lambda v: v.astype("<f4").tobytes()),
        (3, 64, lambda v: v.astype("<f8").tobytes()),
    ],
)
def test_sounds_of_every_width_come_out_alike(
    tmp_path: Path, form: int, bits: int, coded: Callable[[npt.NDArray[np.float32]], bytes]
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(form, bits, coded(VALUES)))
    np.testing.assert_allclose(read_wav(path).samples, VALUES[None], atol=0.01 if bits == 8 else 1e-4)


def test_sounds_are_cut_filled_and_mixed_to_what_the_network_takes(tmp_path: Path) -> None:
    long, stereo = tmp_path / "long.wav", tmp_path / "stereo.wav"
    long.write_bytes(wav(3, 32, np.arange(6, dtype="<f4").tobytes()))
    stereo.write_bytes(wav(3, 32, np.array([[1, 3], [2, 4]], "<f4").tobytes(), channels=2))
    np.testing.assert_array_equal(read_sounds([long, stereo], (1, 4)), [[[0, 1, 2, 3]], [[2, 3, 0, 0]]])
    assert read_sounds([long], (4,)).shape == (1, 4)
    with pytest.raises(DataError, match=r"stereo\.wav has 2 samples in 2 channels, long\.wav 6 in 1"):
        read_sounds([long, stereo], None)
    fast = tmp_path / "fast.wav"
    fast.write_bytes(wav(3, 32, VALUES.tobytes(), rate_hz=16000))
    with pytest.raises(DataError, match=r"fast\.wav has 16000 samples a second, long\.wav 8000; resample it first"):
        read_sounds([long, fast], (1, 4))


def test_sounds_in_folders_become_a_split(tmp_path: Path) -> None:
    for name in ("no", "yes"):
        (tmp_path / name).mkdir()
        for index in range(10):
            (tmp_path / name / f"{index}.wav").write_bytes(wav(3, 32, VALUES.tobytes()))
    split = open_data(tmp_path, shape=(1, 4))
    assert split.classes == ("no", "yes")
    assert split.train.images.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"OggS", r"is no \.wav file; convert it"),
        (wav(1, 16, bytes(100))[:-10], "is cut short"),
        (wav(2, 4, bytes(8)), "coded as form 2"),
        (wav(1, 16, b""), "holds no samples"),
        (b"RIFF\0\0\0\0WAVE", "no description or no samples"),
    ],
)
def test_sounds_that_cannot_be_read_are_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav.*({what})"):
        read_wav(tmp_path / "a.wav")
