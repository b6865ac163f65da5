"""Giving memory back to the system after somebody made the library take much of it.

Role: one call of the C library's. Freed frames stay with the process otherwise, and count against its limit for ever:
after 1.5 GB of a message without end, 470 MB; with it, a few. Does not: free anything that is in use.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what is free to the system; only glibc has this, elsewhere nothing is done. A few ms per 100 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
