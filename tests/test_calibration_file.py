"""calibration.npz: what is written comes back, and nothing but that is ever read."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.calibration_file import (
    Calibration,
    CalibrationFault,
    read_calibration,
    read_own_calibration,
    write_calibration,
)

DOUBT = np.array([[0.5, 0.25], [0.001, 1e-6], [0.9, 0.0]])
RIGHT = np.array([[True, True], [False, True], [False, False]])
FIT = np.array([True, False, False])


def columns(**changed: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    sound: dict[str, npt.NDArray[Any]] = {
        "doubt": DOUBT.astype("<f2"),
        "correct": RIGHT,
        "agrees": np.array([[True, True], [False, True], [True, True]]),
        "fit": FIT,
    }
    return {**sound, **changed}


def packed(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_what_is_written_comes_back_and_sure_samples_stay_apart() -> None:
    agrees = columns()["agrees"]
    data = write_calibration(DOUBT, Calibration((1 - DOUBT).astype(np.float32), RIGHT, agrees, FIT))
    back = read_calibration(data, 2)
    np.testing.assert_allclose(1 - back.confidence.astype(np.float64), DOUBT, rtol=1e-3, atol=1e-7)
    assert back.confidence.dtype == np.float32
    np.testing.assert_array_equal(back.correct, RIGHT)
    np.testing.assert_array_equal(back.agrees, agrees)
    np.testing.assert_array_equal(back.fit, FIT)
    assert back.confidence[1, 1] < back.confidence[2, 1]


def test_the_same_samples_give_the_same_bytes() -> None:
    record = Calibration((1 - DOUBT).astype(np.float32), RIGHT, columns()["agrees"], FIT)
    assert write_calibration(DOUBT, record) == write_calibration(DOUBT, record)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (columns(doubt=DOUBT), "doubt is float64; expected float16"),
        (columns(doubt=DOUBT.astype("<f2")[:, :1]), "doubt has shape"),
        (columns(doubt=-DOUBT.astype("<f2")), "outside 0..1"),
        (columns(doubt=np.full((3, 2), np.nan, "<f2")), "outside 0..1"),
        (columns(doubt=np.asfortranarray(DOUBT.astype("<f2"))), "row by row"),
        (columns(fit=FIT[:2]), "differ in length"),
        (columns(correct=RIGHT.astype(np.int8)), "correct is int8"),
        (columns(agrees=np.zeros((3, 2), bool)), "disagrees with itself"),
        (columns(extra=FIT), "it holds"),
        ({"doubt": DOUBT.astype("<f2")}, "it holds"),
        ({name: array[:0] for name, array in columns().items()}, "shape"),
    ],
)
def test_other_columns_types_shapes_and_values_are_refused(arrays: dict[str, npt.NDArray[Any]], words: str) -> None:
    with pytest.raises(CalibrationFault, match=words):
        read_calibration(packed(arrays), 2)


def test_bytes_that_are_no_zip_or_cut_short_are_refused() -> None:
    whole = packed(columns())
    for data in (b"", b"PK", whole[:100], whole[:-30]):
        with pytest.raises(CalibrationFault):
            read_calibration(data, 2)


def own(temperatures: npt.NDArray[Any]) -> bytes:
    return packed(columns(temperatures=temperatures))


def test_temperatures_of_a_users_own_are_read_and_checked() -> None:
    record, temperatures = read_own_calibration(own(np.array([1.5, 0.5])), 2)
    assert temperatures == (1.5, 0.5)
    np.testing.assert_array_equal(record.fit, FIT)
    for wrong, words in (
        (np.array([1.5]), "one for each of 2 exits"),
        (np.array([1.5, 0.0]), "above 0"),
        (np.array([1.5, np.nan]), "above 0"),
        (np.array([1.5, 2e6]), "below a million"),
        (np.array([1, 2]), "int64"),
    ):
        with pytest.raises(CalibrationFault, match=words):
            read_own_calibration(own(wrong), 2)
    with pytest.raises(CalibrationFault, match="expected doubt"):
        read_own_calibration(packed(columns()), 2)


def replaced(member: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doubt.npy", member)
        for name in ("correct", "agrees", "fit"):
            column = io.BytesIO()
            np.save(column, columns()[name], allow_pickle=False)
            archive.writestr(f"{name}.npy", column.getvalue())
    return stream.getvalue()


def test_a_header_that_claims_more_than_there_is_is_refused_without_making_room() -> None:
    column = io.BytesIO()
    claim = {"descr": "<f2", "fortran_order": False, "shape": (900_000, 2)}
    np.lib.format.write_array_header_1_0(column, claim)
    with pytest.raises(CalibrationFault, match="doubt has 0 bytes for shape"):
        read_calibration(replaced(column.getvalue()), 2)


def test_a_member_that_unpacks_to_too_much_is_refused_unread() -> None:
    with pytest.raises(CalibrationFault, match="at most 1000000 samples"):
        read_calibration(replaced(b"\0" * 5_000_000), 2)


def test_objects_are_refused_unread() -> None:
    column = io.BytesIO()
    np.save(column, np.array([[{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationFault, match="doubt is object"):
        read_calibration(replaced(column.getvalue()), 2)
