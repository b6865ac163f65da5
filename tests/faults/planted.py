"""Faults planted in a daemon that a test starts: nothing of it is shipped, or known to the daemon.

Role: `planting` has the processes that are started meanwhile run a few lines of Python right after one of delen's
modules was loaded. Flow: a `sitecustomize` on PYTHONPATH, which the worker inherits from the front, hooks the import of
that one module. Does not: touch this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOOK = """
import importlib.abc, importlib.machinery, sys

class Planted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def planted(module):
            run(module)
            exec(compile({code!r}, "planted", "exec"), vars(module))
        spec.loader.exec_module = planted
        return spec

import importlib.util
sys.meta_path.insert(0, Planted())
"""
# An input of 666 everywhere ends the worker at its first segment, as a fault of the engine would.
POISON = """
import os
_segment = LoadedOnnx.segment
def segment(self, index, features):
    if index == 0 and float(features.max()) == 666.0:
        os.abort()
    return _segment(self, index, features)
LoadedOnnx.segment = segment
"""
# The desk remembers every message it was given.
LEAK = """
_kept = []
_handle = Desk.handle
def handle(self, now_us, tenant, route, frames):
    _kept.append(bytearray(2048))
    return _handle(self, now_us, tenant, route, frames)
Desk.handle = handle
"""


@contextmanager
def planting(folder: Path, module: str, code: str) -> Iterator[None]:
    """Processes started meanwhile run `code` inside `module` once that is loaded."""
    place = folder / "planted"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(HOOK.format(module=module, code=code))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
