"""What the daemon says to its operator, as lines that nothing in them can forge, and no more of them than may be.

Role: pure. `render` makes one line of an event: text, logfmt or JSON, at most 4 KiB, everything unprintable escaped, so
that a name or an error's text can begin no line of its own and move no terminal's cursor. `Throttle` lets through one
line per key and window, and counts the rest; all keys together have a limit too.
Flow: `log_writer.Log` -> `Throttle.admit` -> `render` -> its queue.

Does not: read clocks, write.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

Form: TypeAlias = Literal["text", "logfmt", "json"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Value: TypeAlias = "str | int | float | bool | None"

# The longest line, its end included: what a pipe takes in one piece, and what journald keeps on one line by far.
LINE_BYTES_MAX = 4096
# Of what is said, and of each field, before escapes; and how many fields.
TEXT_CHARS_MAX = 1024
VALUE_CHARS_MAX = 200
FIELDS_MAX = 16
RANK: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
# What sd-daemon(3) wants in front of a line, by level.
PRIORITY: dict[Level, int] = {"debug": 7, "info": 6, "warning": 4, "error": 3}


class Event(NamedTuple):
    """One thing to say. `wall`: when, as ISO 8601; `repeated`: how many like it were kept back before it."""

    wall: str
    level: Level
    text: str
    fields: Mapping[str, Value]
    repeated: int = 0


class Kept(NamedTuple):
    """That `times` events of a key were kept back in its window: what they were like."""

    key: str
    level: Level
    text: str
    times: int


def render(event: Event, form: Form, *, priority: bool = False) -> bytes:
    """One line with its end, at most LINE_BYTES_MAX bytes: what is too long loses its end, marked with an ellipsis.

    Args:
        priority: put `<6>` or the like in front, which journald reads as the line's level.
    """
    prefix = f"<{PRIORITY[event.level]}>" if priority else ""
    chars = TEXT_CHARS_MAX
    while True:
        line = f"{prefix}{_written(event, form, chars)}\n".encode()
        if len(line) <= LINE_BYTES_MAX:
            return line
        chars //= 2


def escaped(text: str) -> str:
    """`text` with everything that does not print as itself written as an escape: controls, ANSI, marks of direction."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else _escape(char) for char in text])


class Throttle:
    """Which lines may be written. Per key one in each `window_us`, and `lines_max` of all keys together.

    `keys_max` keys are remembered; beyond them the one longest silent is forgotten, and what was kept back of it is
    counted in `over`, as is what was one line too many.
    """

    def __init__(self, *, window_us: int, lines_max: int, keys_max: int = 256) -> None:
        self._window_us = window_us
        self._lines_max = lines_max
        self._keys_max = keys_max
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._began_us = 0
        self._lines = 0
        self.over = 0

    def admit(self, now_us: int, key: str, level: Level, text: str) -> int | None:
        """How many of this key were kept back since its last line, if this may be written; else None, and counted."""
        if now_us - self._began_us >= self._window_us:
            self._began_us, self._lines = now_us, 0
        known = self._keys.get(key)
        if known is not None and now_us - known.since_us < self._window_us:
            known.count += 1
            known.level, known.text = level, text
            return None
        if self._lines >= self._lines_max:
            self.over += 1
            return None
        self._lines += 1
        repeated = 0 if known is None else known.count
        self._keys[key] = _Key(now_us, level, text)
        self._keys.move_to_end(key)
        if len(self._keys) > self._keys_max:
            self.over += self._keys.popitem(last=False)[1].count
        return repeated

    def due(self, now_us: int) -> Iterator[Kept]:
        """What was kept back of keys whose window is over."""
        while self._keys:
            key, oldest = next(iter(self._keys.items()))
            if now_us - oldest.since_us < self._window_us:
                return
            del self._keys[key]
            if oldest.count:
                yield Kept(key, oldest.level, oldest.text, oldest.count)

    def wake_at(self) -> int | None:
        """When `due` has something to tell at the earliest; None when nothing is kept."""
        return next((known.since_us + self._window_us for known in self._keys.values() if known.count), None)


class _Key:
    """When a key's last line was written, and what was kept back since."""

    __slots__ = ("count", "level", "since_us", "text")

    def __init__(self, since_us: int, level: Level, text: str) -> None:
        self.since_us = since_us
        self.level: Level = level
        self.text = text
        self.count = 0


def _written(event: Event, form: Form, chars: int) -> str:
    values_max = min(VALUE_CHARS_MAX, chars)
    shown = {name: _cut(value, values_max) for name, value in list(event.fields.items())[:FIELDS_MAX]}
    if event.repeated:
        shown["repeated"] = event.repeated
    text = _cut(event.text, chars)
    if form == "json":
        # Pure ASCII: json escapes the rest, and so does nothing here depend on what reads it.
        return json.dumps({"time": event.wall, "level": event.level, "message": text, **shown}, allow_nan=False)
    if form == "logfmt":
        pairs = {"time": event.wall, "level": event.level, "msg": text, **shown}
        return " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items())
    return escaped(" ".join([str(text), *(f"{name}={_quoted(value)}" for name, value in shown.items())]))


def _cut(value: Value, chars: int) -> Value:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if not isinstance(value, str) or len(value) <= chars:
        return value
    return value[:chars] + "…"


def _quoted(value: Value) -> str:
    """A value of logfmt: bare where that is clear, else in double quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if value and value.isprintable() and not set(value) & set(' ="\\'):
        return value
    inside = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped(inside)}"'


def _escape(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    code = ord(char)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
