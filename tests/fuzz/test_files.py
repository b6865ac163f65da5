"""Files that a disk, a stranger or an operator in a hurry has spoilt: refused by the error their reader promises.

Every byte of a good one flipped, every length cut, spoilt at random, and what was thought up. Nothing else is raised,
nothing takes long, and what is read all the same is something that its own checks let pass. State that has a copy is
read as it was whatever becomes of one of the two.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from delen.tests.faults import counts
from delen.tests.faults.counts import count, randomness
from delen.tests.faults.figures import note
from delen.tests.fuzz.file_readers import READERS, SECRET
from delen.tests.fuzz.mutations import INTEGERS, TEXTS, spoilt

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.e2e]

CORPUS = Path(__file__).parent.parent / "corpus"
# The slowest reader takes some milliseconds on a good file; what a spoilt one makes of it may not be of another order.
READ_S_MAX = 2.0
# Of long files, in CI, so many places are enough: a table is read the same way in its thousandth line.
PLACES_CI = 400
TOML = ("config", "tenant", "manifest", "key", "secret", "scenario")
JSON = ("profile", "imported", "counters", "networks")
# Refused by every reader of TOML; most of it by none but the text's own reader, which is why it is one for all.
BAD_TOML: dict[str, bytes] = {
    "no UTF-8": b'a = "\xff"',
    "a surrogate": b'a = "\xed\xa0\x80"',
    "a zero": b'a = "\0"',
    "a zero, escaped": b'a = "\\u0000"',
    "an escape that is none": b'a = "\\ud800"',
    "a bell": b'a = "\a"',
    "a carriage return alone": b"a = 1\rb = 2",
    "a mark of byte order": b"\xef\xbb\xbfa = 1",
    "no value": b"a =",
    "no key": b"= 1",
    "a key twice": b"a = 1\na = 2",
    "a table twice": b"[a]\n[b]\n[a]",
    "a table that is a value": b"a = 1\n[a]",
    "an open string": b'a = "x',
    "an open array": b"a = [1, 2",
    "an open table": b"a = {b = 1",
    "arrays without end": b"a = " + b"[" * 100_000,
    "tables without end": b"a = " + b"{a=" * 20_000,
    "a key of many parts": b"a." * 20_000 + b"a = 1",
    "a table of many parts": b"[" + b"a." * 20_000 + b"a]",
    "quoted parts": b"'a'." * 20_000 + b"a = 1",
    "a number of digits": b"a = " + b"1" * 5_000,
    "a date that is none": b"a = 2026-13-45",
    "words": b"hello, world",
    "JSON": b'{"a": 1}',
    "zeros": bytes(300),
    "random": bytes(range(256)),
}
BAD_JSON: dict[str, bytes] = {
    "nothing": b"",
    "half": b'[{"a": ',
    "no UTF-8": b'"\xff"',
    "deep": b"[" * 100_000,
    "deep tables": b'{"a":' * 50_000,
    "a number of digits": b"9" * 100_000,
    "too large a number": b"1e999",
    "NaN": b"NaN",
    "text": b'"x"',
    "nothing at all": b"null",
    "an open string": b'"' + b"x" * 1000,
    "two of them": b"[][]",
    "zeros": bytes(300),
    "escapes": b'"\\ud800"',
}
# Lines for each of a table's keys: values of every kind that are not it.
VALUES = (
    b"-1",
    b"0",
    b"1e400",
    b"nan",
    b"-inf",
    b"9223372036854775807",
    b'""',
    b'"../../x"',
    b"[]",
    b"{}",
    b"true",
    b"1979-05-27",
)


def tried(name: str, data: bytes, folder: Path) -> bool:
    """Read it; whether it was taken. Anything but the reader's own error fails, and so does one that says too much."""
    reader, raised = READERS[name], None
    began_s = time.monotonic()
    try:
        reader.read(data, folder)
    except Exception as error:
        raised = error
    took_s = time.monotonic() - began_s
    assert took_s < READ_S_MAX, f"{name} took {took_s:.1f} s for {len(data)} bytes: {data[:80]!r}"
    if raised is None:
        return True
    kinds, said = {kind.__name__ for kind in type(raised).__mro__}, str(raised)
    assert reader.error in kinds, f"{name}: {type(raised).__name__}: {said[:300]}; of {data[:200]!r}"
    assert len(said) < 4_000, f"{name} says {len(said)} characters"
    if name in ("key", "secret"):
        assert SECRET[8:20] not in said, "part of a secret is in the error"
    return False


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(name: str, tmp_path: Path) -> None:
    assert tried(name, READERS[name].good(tmp_path), tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_every_byte_flipped_and_every_length_cut(name: str, tmp_path: Path) -> None:
    draw = randomness(f"flips of {name}")
    good = READERS[name].good(tmp_path)
    step = 1 if counts.SOAK else max(1, len(good) // PLACES_CI)
    for place in range(draw.randrange(step), len(good), step):
        flipped = bytearray(good)
        flipped[place] ^= 1 << draw.randrange(8)
        tried(name, bytes(flipped), tmp_path)
        tried(name, good[:place], tmp_path)


def test_files_spoilt_at_random(tmp_path: Path) -> None:
    draw = randomness("files")
    good = {name: reader.good(tmp_path) for name, reader in READERS.items()}
    taken = 0
    for _ in range(count("P10 examples of each property") // 2):
        name = draw.choice([*READERS])
        taken += tried(name, spoilt(draw, good[name], draw.choice([1, 1, 2, 4, 16])), tmp_path)
    note("P10 spoilt files that were taken all the same", taken, "files", beside="each held by its own checks")


@pytest.mark.parametrize("name", TOML)
def test_toml_that_was_thought_up(name: str, tmp_path: Path) -> None:
    good = READERS[name].good(tmp_path)
    for what, text in BAD_TOML.items():
        # Behind a good file, too: a reader might stop where it has all it wants.
        for data in (text, good + b"\n" + text):
            assert not tried(name, data, tmp_path), what


@pytest.mark.parametrize("name", JSON)
def test_json_that_was_thought_up(name: str, tmp_path: Path) -> None:
    for what, text in BAD_JSON.items():
        taken = tried(name, text, tmp_path)
        # A list that cannot be read is begun anew, and said; counters of nothing are none.
        assert not taken or name == "networks" or (name, what) == ("counters", "nothing"), what


@pytest.mark.parametrize("name", TOML)
def test_every_value_of_a_table_of_the_wrong_kind(name: str, tmp_path: Path) -> None:
    """Each line's value in turn is replaced by each of the others; what is taken has passed the checks for figures."""
    lines = READERS[name].good(tmp_path).splitlines()
    values = [*VALUES, *(b"%d" % number for number in INTEGERS), *(_quoted(text) for text in TEXTS if len(text) < 1000)]
    draw = randomness(f"values of {name}")
    for place, line in enumerate(lines):
        key, equals, _ = line.partition(b" = ")
        for value in values if counts.SOAK else draw.sample(values, min(len(values), 16)):
            if equals:
                tried(name, b"\n".join([*lines[:place], key + equals + value, *lines[place + 1 :]]), tmp_path)


def _quoted(text: str) -> bytes:
    return b'"' + text.encode("unicode_escape").replace(b'"', b'\\"').replace(b"\\x", b"\\u00") + b'"'


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_once_a_fault_is_none_any_more(path: Path, tmp_path: Path) -> None:
    """`tests/corpus/READER/`: files that made a reader raise something else, or take minutes."""
    if path.parent.name not in READERS:
        pytest.skip("read by another test")
    assert not tried(path.parent.name, path.read_bytes(), tmp_path)
