"""Dělen's conditions: its own files, the compound ones its code cannot read, and what is wrong with a file in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from delen.clients.bounds import Condition, ConditionSet
from delen.clients.conditions import FILE_BYTES_MAX, both, either, load_conditions, when
from delen.clients.errors import BadFile

SLOW: dict[str, Any] = {"metric": "response_time", "op": "greater", "threshold": 0.02}
SURE: dict[str, Any] = {"metric": "confidence", "op": "greater_eq", "threshold": 0.9}
CHEAP: dict[str, Any] = {"metric": "energy", "op": "less", "threshold": 5}
IS_SLOW = Condition("response_time", "greater", 0.02)
IS_SURE = Condition("confidence", "greater_eq", 0.9)
IS_CHEAP = Condition("energy", "less", 5.0)


def load(tmp_path: Path, content: object) -> tuple[ConditionSet | None, ...]:
    path = tmp_path / "conditions.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_conditions(path)


def test_delens_own_form_is_one_test_per_exit(tmp_path: Path) -> None:
    assert load(tmp_path, [SLOW] * 4) == (ConditionSet(all_of=(IS_SLOW,)),) * 4


def test_an_exit_may_have_none(tmp_path: Path) -> None:
    assert load(tmp_path, [None, SURE]) == (None, ConditionSet(all_of=(IS_SURE,)))


def test_compound_conditions_are_read(tmp_path: Path) -> None:
    sets = load(tmp_path, [{"and": [SLOW, SURE]}, {"or": [SLOW, SURE]}, {"and": [CHEAP, {"or": [SLOW, SURE]}]}])
    assert sets == (
        ConditionSet(all_of=(IS_SLOW, IS_SURE)),
        ConditionSet(any_of=(IS_SLOW, IS_SURE)),
        ConditionSet(all_of=(IS_CHEAP,), any_of=(IS_SLOW, IS_SURE)),
    )


def test_an_or_of_one_test_is_that_test(tmp_path: Path) -> None:
    assert load(tmp_path, [{"or": [SLOW]}]) == (ConditionSet(any_of=(IS_SLOW,)),)


@pytest.mark.parametrize("op", [">", "gt", "greater"])
def test_operators_are_known_by_their_signs_too(tmp_path: Path, op: str) -> None:
    assert load(tmp_path, [{**SLOW, "op": op}]) == (ConditionSet(all_of=(IS_SLOW,)),)


def test_sets_are_built_by_hand_the_same_way() -> None:
    slow, sure, cheap = (when(c.metric, c.operator, c.threshold) for c in (IS_SLOW, IS_SURE, IS_CHEAP))
    assert both(cheap, either(slow, sure)) == ConditionSet(all_of=(IS_CHEAP,), any_of=(IS_SLOW, IS_SURE))
    with pytest.raises(ValueError, match="two groups"):
        both(either(slow, sure), either(cheap, sure))
    with pytest.raises(ValueError, match="must all hold"):
        either(both(slow, sure), cheap)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 3000, "not JSON"),
        (b" " * (FILE_BYTES_MAX + 1), "more than"),
        ({}, "a list"),
        ([], "a list"),
        ([3], "entry 0 is int"),
        ([SLOW, {**SLOW, "metric": "speed"}], "entry 1: metric 'speed'"),
        ([{**SLOW, "op": "about"}], "op 'about'"),
        ([{**SLOW, "op": ["less"]}], "op"),
        ([{**SLOW, "threshold": "0.02"}], "threshold '0.02'"),
        ([{**SLOW, "threshold": True}], "threshold True"),
        ([{"metric": "energy"}], "expected ['metric', 'op', 'threshold']"),
        ([{"and": [SLOW], "or": [SURE]}], "mixes and, or"),
        ([{"and": []}], "needs a list"),
        ([{"or": [SLOW, None]}], "or 1 is null"),
        ([{"or": [{"and": [SLOW, SURE]}, CHEAP]}], "must all hold"),
        ([None, None], "no test"),
        ([{"or": [SLOW] * 65}], "at most 64"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_and_place(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        load(tmp_path, content)
    assert words in str(caught.value)
    assert "conditions.json" in str(caught.value)


@pytest.mark.parametrize("name", ["conditions_20ms.json", "conditions_40ms.json"])
def test_delens_published_files_are_read(name: str) -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / "profiles" / name
    if not path.exists():
        pytest.skip("Dělen's published files are not on this machine")
    threshold = int(name[11:13]) / 1000
    assert load_conditions(path) == (when("response_time", "greater", threshold),) * 4
