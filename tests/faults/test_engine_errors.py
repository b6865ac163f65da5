"""An engine that fails in a step without dying: a typed error for the request, the same worker, a bar where it goes on.

The error is planted in the first segment of `digits`, one of those that ONNX Runtime raises: for an input of 900 and
more, and for every input while a file says that the network is sick. What nobody foresaw ends the worker instead, as
`test_worker_deaths.py` shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import Answer, Failure, Refusal, Reply
from delen.tests.daemon_fixture import Plain, serving, worker_of
from delen.tests.faults.planted import planting

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# Others in the batch of what fails.
BESIDE = 20
ERRORS = """
import pathlib
_init = _Graph.__init__
def init(self, bundle, graph, options):
    _init(self, bundle, graph, options)
    if graph != bundle.manifest.segments[0]:
        return
    run = self._run
    def failing(outputs, inputs):
        if float(inputs[INPUT].max()) >= 900 or pathlib.Path({sick!r}).exists():
            raise states.Fail("planted: this operator gives up")
        return run(outputs, inputs)
    self._run = failing
_Graph.__init__ = init
"""


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    """The network fails on everything while this file is there."""
    return tmp_path / "sick"


@pytest.fixture
def daemon(tmp_path: Path, sick: Path) -> Iterator[PrivateDaemon]:
    with planting(tmp_path, "delen.exits.onnx_runner", ERRORS.format(sick=str(sick))), serving(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def plain(daemon: PrivateDaemon) -> Iterator[Plain]:
    with Plain(daemon) as plain:
        yield plain


def end_of(plain: Plain) -> Reply:
    """Of one request like any other."""
    (end,) = plain.ends([plain.infer()]).values()
    return end


def test_an_error_of_the_engine_costs_one_request_and_neither_worker_nor_batch(
    daemon: PrivateDaemon, plain: Plain
) -> None:
    worker = worker_of(daemon)
    hit = plain.infer(np.full((1, 8, 8), 900, np.float32))
    beside = [plain.infer() for _ in range(BESIDE)]
    ends = plain.ends([hit, *beside])
    failed = ends.pop(hit)
    assert isinstance(failed, Failure)
    assert failed.code == "output"
    assert "planted: this operator gives up" in failed.message
    assert all(isinstance(end, Answer) for end in ends.values())
    assert plain.stats().worker_restarts == 0
    assert worker_of(daemon).pid == worker.pid


def test_a_network_that_goes_on_failing_is_barred_until_it_is_well_and_its_worker_lives_on(
    daemon: PrivateDaemon, plain: Plain, sick: Path
) -> None:
    worker = worker_of(daemon)
    sick.touch()
    for _ in range(3):
        failed = end_of(plain)
        assert isinstance(failed, Failure)
        assert failed.code == "output"
    refused = end_of(plain)
    assert isinstance(refused, Refusal)
    assert refused.code == "quarantined"
    assert refused.offer is not None
    assert refused.offer.retry_after_ms
    sick.unlink()
    # Its canary is tried by itself; until that has passed it stays refused, and nothing else may happen.
    while not isinstance(end := end_of(plain), Answer):
        assert isinstance(end, Refusal)
        assert end.code == "quarantined"
    assert plain.stats().worker_restarts == 0
    assert worker_of(daemon).pid == worker.pid
    row = plain.row()
    assert (row.answered, row.failed, row.pending) == (1, 3, 0)
