"""Intake: how a request that comes in will wait."""

from __future__ import annotations

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon.config import Limits
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.policies.exits import asked
from delen.policies.gates import GateTable
from delen.policies.view import Served, Waiting
from delen.tests.simulation import served


def come(network: Served, bounds: Bounds) -> Waiting:
    """This request, as it waits where nobody else does."""
    server = Server(Limits())
    server.networks[network.name] = network
    server.worker_ready(0)
    verdict, _ = server.submit(0, "a", Infer(VERSION, b"1", network.name, TENSORS, bounds), asked(bounds), b"")
    assert verdict == 1
    [waiting] = [member for pool in server.view().pools() for member in pool.members]
    return waiting


@pytest.mark.parametrize("accuracy", [0.85, 0.9, 0.95])
def test_under_a_gate_it_stays_beyond_the_first_exit_as_often_as_calibration_says(accuracy: float) -> None:
    # The first exit is right where it is surer than 0.4, the second where that is surer than 0.2, the last always.
    network, sure = served(accuracies=(0.6, 0.8, 0.99)), np.linspace(0, 1, 1_000, dtype=np.float32)
    correct = np.stack([sure > 0.4, sure > 0.2, sure >= 0], axis=1)
    network.gates = GateTable(np.stack([sure, sure, sure], axis=1), correct, (0, 1, 2))
    waiting = come(network, Bounds(accuracy=accuracy))
    assert waiting.gate is not None
    assert waiting.stays == pytest.approx(float((sure <= waiting.gate).mean()))
    assert 0.2 < waiting.stays < 0.4


def test_without_a_gate_it_stays() -> None:
    assert come(served(gates=False), Bounds(accuracy=0.96)).stays == 1
