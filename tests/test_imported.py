"""Dělen's published profile is read as it was meant, and what is not one is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delen.profiles.imported import read_imported
from delen.profiles.schema import ProfileError

PUBLISHED = Path(__file__).resolve().parents[2] / "shared/data/profiles/delen_nano_resnet50_exits.json"


def test_the_published_profile_of_the_nano() -> None:
    if not PUBLISHED.is_file():
        pytest.skip(f"published data is not in {PUBLISHED.parent}")
    imported = read_imported(PUBLISHED)
    assert [entry.accuracy for entry in imported.exits] == [0.4354, 0.6803, 0.7675, 0.7657]
    assert [entry.energy_mj for entry in imported.exits] == [45.99, 99.31, 176.75, 243.55]
    assert imported.gmac == pytest.approx((0.813, 1.856, 3.332, 4.145), abs=1e-3)
    assert imported.dominated == (False, False, False, True)


def test_an_exit_no_better_than_a_shallower_one_is_dominated(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    rows = [(0.6, 1, 10), (0.8, 2, 20), (0.8, 3, 30)]
    path.write_text(json.dumps([{"accuracy": a, "flops": f, "energy": e} for a, f, e in rows]))
    assert read_imported(path).dominated == (False, False, True)
    assert read_imported(path).name == "board"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "not a profile in Dělen's form"),
        ('[{"accuracy": 0.5}]', "flops"),
        ('[{"accuracy": 0.5, "flops": 1, "energy": 2, "latency": 3}]', "latency"),
        ("[]", "0 exits"),
        ('[{"accuracy": 50, "flops": 1, "energy": 2}]', "exit 0: accuracy is 50"),
        ('[{"accuracy": 0.5, "flops": 0, "energy": 2}]', "exit 0: flops is 0"),
        ('[{"accuracy": 0.5, "flops": 1, "energy": -2}]', "exit 0: energy is -2"),
        (
            '[{"accuracy": 0.5, "flops": 2, "energy": 1}, {"accuracy": 0.6, "flops": 1, "energy": 2}]',
            "flops is .*cumulative",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(ProfileError, match=rf"odd\.json.*{said}"):
        read_imported(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"cannot read .*absent\.json"):
        read_imported(tmp_path / "absent.json")
