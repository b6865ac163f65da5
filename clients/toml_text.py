"""TOML from anybody: bytes to a table, or one fault in words, in a time that the file's size bounds.

Role: the one reader of TOML, for configurations, tenants, keys, bundles' manifests, scenarios and workspaces. Pure, and
importable by every room. The library behind it is right about TOML and trusting about time and depth: a key of 60,000
dotted parts takes it minutes, nesting ends in RecursionError and a long number in a plain ValueError. What no file
needs is refused before it parses. Does not: read files, or know what a table should hold.
"""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# delen's own files have three. The library's time grows with the square of it: 0.6 ms at 100, 205 s at 60,000.
KEY_PARTS_MAX = 64
# A quoted part may hold what it likes but its quote: a run of parts is the same however it is read.
_PART = r"(?:[A-Za-z0-9_-]{1,256}|\"[^\"\n]{0,256}\"|'[^'\n]{0,256}')"
_LONG_KEY = re.compile(rf"(?:{_PART}[ \t]{{0,8}}\.[ \t]{{0,8}}){{{KEY_PARTS_MAX}}}")
# No path, name or label can hold it, and the system's calls stop at it with an error of another kind.
_NUL = re.compile(r"\\(?:u0000|U00000000)")


class TomlFault(ValueError):
    """It is not TOML that delen reads; the text says what is wrong, and may quote the file."""


def parse_toml_text(raw: bytes) -> dict[str, Any]:
    """The table that these bytes are. Raises TomlFault."""
    try:
        text = raw.decode()
        if _LONG_KEY.search(text):
            raise TomlFault(f"a key has more than {KEY_PARTS_MAX} parts; expected a few, as in limits.queued_max")
        if _NUL.search(text):
            raise TomlFault("a text has the character \\u0000 in it, which no name or path can hold; remove it")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise TomlFault(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except TomlFault:
        raise
    except RecursionError as error:
        raise TomlFault("its arrays or tables are nested too deep") from error
    except ValueError as error:
        # The library's own fault is one; a number of thousands of digits is another.
        raise TomlFault(str(error)) from error
