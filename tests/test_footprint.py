"""What delen weighs: the front's memory at rest, and what a process must load to ask for an answer.

Times are for `delen bench footprint` to tell; a test cannot promise them. What it can is that nothing heavy gets in.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from delen.tests.daemon_fixture import Plain, serving, worker_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

RSS_BYTES_MAX = 80_000_000
# Each of these alone costs a process more than delen's own modules do.
ENGINES = ("onnxruntime", "onnx", "torch", "tensorrt", "pycuda", "sklearn", "scipy", "matplotlib", "PIL")
LISTING = "import sys; {}; print(*sys.modules)"


def test_the_front_is_light_at_rest_and_loads_no_engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    with serving(tmp_path_factory.getbasetemp(), tenants=["a", "b", "c", "d"]) as daemon, Plain(daemon) as plain:
        plain.answers([plain.infer() for _ in range(500)])
        front, worker = psutil.Process(daemon.pid), worker_of(daemon)
        assert front.memory_info().rss < RSS_BYTES_MAX
        assert not engines_in(front)
        assert engines_in(worker) == {"onnxruntime"}, "if the engine is not seen there, it would not be seen here"


def test_asking_for_a_client_loads_nothing_but_its_parts_and_delen() -> None:
    # numpy, zmq and msgspec are what a client cannot do without; what they bring is theirs.
    beyond = modules_of("from delen import Client") - modules_of("import numpy, zmq, msgspec")
    packages = {name.partition(".")[0] for name in beyond}
    assert "delen.clients.client" in beyond
    assert packages - set(sys.stdlib_module_names) == {"delen"}
    # These cost 10 ms each, and only some callers need them.
    assert not beyond & {"asyncio", "concurrent.futures", "logging", "subprocess", "numpy.typing", "numpy.testing"}
    assert {name.partition(".")[2].partition(".")[0] for name in beyond if name.startswith("delen.")} == {"clients"}


def modules_of(statement: str) -> set[str]:
    """What is imported after a statement in a process of its own."""
    listing = LISTING.format(statement)
    ended = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def engines_in(process: psutil.Process) -> set[str]:
    """The engines whose libraries a process has mapped."""
    parts = {part for mapped in process.memory_maps() for part in Path(mapped.path).parts}
    return parts & set(ENGINES)
