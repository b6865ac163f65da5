"""A profile that cannot be right is refused, and the message names the file and the field."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from delen.profiles.schema import Cost, ExitQuality, Profile, ProfileError, profile_fault, read_profile
from delen.tests.sample_profile import sample_profile


def _with_cost(profile: Profile, **changes: object) -> Profile:
    broken = msgspec.structs.replace(profile.segments[1][2], **changes)
    row = (*profile.segments[1][:2], broken, *profile.segments[1][3:])
    return msgspec.structs.replace(profile, segments=(profile.segments[0], row, *profile.segments[2:]))


def test_a_profile_survives_being_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(msgspec.json.encode(sample_profile()))
    assert read_profile(path) == sample_profile()


def test_what_is_right_has_no_fault() -> None:
    assert profile_fault(sample_profile()) is None
    assert profile_fault(sample_profile(energy=False)) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p50_us": -1.0}, "segments[1] at batch 4"),
        ({"p50_us": float("inf")}, "expected finite"),
        ({"p95_us": 1e9}, "ascending"),
        ({"n": 0}, "n is 0"),
        ({"energy_mj": None}, "energy_source is 'modelled'"),
        ({"energy_mj": -0.5}, "not negative"),
    ],
)
def test_a_wrong_cost_is_named(changes: dict[str, object], named: str) -> None:
    fault = profile_fault(_with_cost(sample_profile(), **changes))
    assert fault
    assert named in fault


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "format is 2"),
        ({"batches": (2, 4)}, "start at 1"),
        ({"batches": (1, 4, 2, 8)}, "ascending"),
        ({"batches": (1, 2)}, "expected one for each of 2 batches"),
        ({"heads": ()}, "0 heads"),
        ({"exits": (ExitQuality(accuracy=0.9, low=0.95, high=1.0, n=1),) * 3}, "exits[0]"),
        ({"energy_source": "unknown"}, "energy_source is 'unknown'"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, object], named: str) -> None:
    fault = profile_fault(msgspec.structs.replace(sample_profile(), **changes))
    assert fault
    assert named in fault


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 1}',
        msgspec.json.encode(sample_profile()).replace(b'"quick"', b'"fast"'),
        msgspec.json.encode(sample_profile()).replace(b'"n":100', b'"n":"many"', 1),
        msgspec.json.encode(sample_profile())[:-40],
    ],
)
def test_a_damaged_file_is_refused_by_name_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=r"damaged\.json .*`delen profile`"):
        read_profile(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"absent\.json: No such file"):
        read_profile(tmp_path / "absent.json")


def test_costs_are_by_keyword_so_that_units_cannot_be_swapped() -> None:
    with pytest.raises(TypeError):
        Cost(1.0, 2.0, 3.0, 4, None)  # type: ignore[call-arg]
