"""What the daemon tells Python and the C library about its memory.

Role: `give_back` after somebody made the library take much of it. Freed frames stay with the process otherwise, and
count against its limit for ever: after 1.5 GB of a message without end, 470 MB; with it, a few. `settle` once all that
stays is there. Does not: free anything that is in use.
"""

from __future__ import annotations

import ctypes
import gc

# The collector looks at so many new objects at a time, half a millisecond, and never at those that stayed: going
# through all answers kept for clients stopped everything for 10 to 40 ms. The core makes no cycles (test_cycles.py).
GC_THRESHOLDS = (1_000, 1_000_000, 1_000_000)


def give_back() -> None:
    """Return what is free to the system; only glibc has this, elsewhere nothing is done. A few ms per 100 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle() -> None:
    """What is there now stays for ever, and is not looked through again; from now on only what is new is."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
