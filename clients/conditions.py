"""Dělen's conditions: built by hand, or read from its JSON files.

Role: `load_conditions` reads a file of one entry per exit. An entry is null (never stop here), one test
`{"metric", "op", "threshold"}`, or `{"and": [...]}` or `{"or": [...]}` of tests; an "and" may hold one "or".
True means stop at this exit. Units as in Dělen's files: seconds, mJ, GMAC, shares.
Source: github umassos/delen, evaluation/conditions; there a compound entry raises, here it works.

Does not: evaluate them; the daemon does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, get_args

import msgspec

from .bounds import Condition, ConditionSet, Metric, Operator, conditions_fault
from .errors import BadFile

# Larger than any file of 64 tests, small enough to read without thought.
FILE_BYTES_MAX = 64 * 1024
# Other spellings met in such files, by the one this project uses.
_OPERATORS = {
    "lt": "less",
    "<": "less",
    "le": "less_eq",
    "<=": "less_eq",
    "less_equal": "less_eq",
    "eq": "equal",
    "==": "equal",
    "gt": "greater",
    ">": "greater",
    "ge": "greater_eq",
    ">=": "greater_eq",
    "greater_equal": "greater_eq",
}
Sets: TypeAlias = "tuple[ConditionSet | None, ...]"


def when(metric: Metric, operator: Operator, threshold: float) -> ConditionSet:
    """One test as a set, to be joined with `both` or `either`."""
    return ConditionSet(all_of=(Condition(metric, operator, threshold),))


def both(first: ConditionSet, second: ConditionSet) -> ConditionSet:
    """Stop where both hold. Raises ValueError when each has alternatives: one set holds one group of them."""
    if first.any_of and second.any_of:
        raise ValueError("two groups of alternatives cannot be joined by AND; give one of them per exit")
    return ConditionSet(all_of=first.all_of + second.all_of, any_of=first.any_of or second.any_of)


def either(first: ConditionSet, second: ConditionSet) -> ConditionSet:
    """Stop where at least one holds. Raises ValueError for a set of more than one test that must all hold."""
    return ConditionSet(any_of=_alternatives(first) + _alternatives(second))


def load_conditions(path: Path | str) -> Sets:
    """Read a conditions file: one set, or None, per exit.

    Raises:
        OSError: it cannot be read. BadFile: it holds no conditions; the text names the entry and what was expected.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise BadFile(f"{path}: more than {FILE_BYTES_MAX} bytes, which no conditions file needs")
    try:
        entries = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFile(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise BadFile(f"{path}: expected a list with one entry per exit")
    try:
        sets = tuple(_set(entry, f"entry {index}") for index, entry in enumerate(entries))
    except ValueError as error:
        raise BadFile(f"{path}: {error}") from None
    fault = conditions_fault(sets)
    if fault:
        raise BadFile(f"{path}: {fault}")
    return sets


def _set(entry: Any, where: str) -> ConditionSet | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {type(entry).__name__}; expected null or an object")
    words = set(entry) & {"and", "or"}
    if not words:
        return ConditionSet(all_of=(_test(entry, where),))
    if len(entry) != 1:
        raise ValueError(f"{where} mixes {', '.join(sorted(entry))}; expected only 'and' or only 'or'")
    word = words.pop()
    parts = entry[word]
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{where}: {word!r} needs a list of tests")
    joined: ConditionSet | None = None
    for index, part in enumerate(parts):
        one = _set(part, f"{where}, {word} {index}")
        if one is None:
            raise ValueError(f"{where}, {word} {index} is null; expected a test")
        if joined is None:
            joined = one if word == "and" else ConditionSet(any_of=_alternatives(one))
        else:
            joined = both(joined, one) if word == "and" else either(joined, one)
    return joined


def _alternatives(group: ConditionSet) -> tuple[Condition, ...]:
    if group.any_of and not group.all_of:
        return group.any_of
    if len(group.all_of) == 1 and not group.any_of:
        return group.all_of
    raise ValueError("an alternative of an OR must be one test, or an OR itself; split what must all hold")


def _test(entry: dict[str, Any], where: str) -> Condition:
    expected = {"metric", "op", "threshold"}
    if set(entry) != expected:
        raise ValueError(f"{where} has the keys {sorted(map(str, entry))}; expected {sorted(expected)}")
    metric, op, threshold = entry["metric"], entry["op"], entry["threshold"]
    operator: Any = _OPERATORS.get(op, op) if isinstance(op, str) else op
    if metric not in get_args(Metric):
        raise ValueError(f"{where}: metric {metric!r:.40}; expected one of {', '.join(get_args(Metric))}")
    if operator not in get_args(Operator):
        raise ValueError(f"{where}: op {op!r:.40}; expected one of {', '.join(get_args(Operator))}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise ValueError(f"{where}: threshold {threshold!r:.40}; expected a number")
    return Condition(metric, operator, float(threshold))
