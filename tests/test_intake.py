"""Intake: how a request that comes in will wait."""

from __future__ import annotations

import math

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon.config import Limits
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.policies.exits import asked
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


def test_under_gates_it_goes_beyond_the_next_of_them_as_often_as_calibration_says() -> None:
    network = served(accuracies=(0.6, 0.8, 0.99))
    assert network.gates is not None
    proof = network.gates.plan(0.95, 0.9)
    assert proof is not None
    waiting = come(network, Bounds(accuracy=0.95))
    assert waiting.gates == proof.thresholds
    first = next(exit_index for exit_index, gate in enumerate(proof.thresholds) if gate < math.inf)
    assert waiting.nearest == first
    assert waiting.stays == pytest.approx(1 - sum(proof.shares[: first + 1]))
    assert 0.1 < waiting.stays < 0.9, "or this says nothing"
    waiting.move_to(first + 1)
    assert waiting.nearest > first


def test_without_a_gate_it_stays() -> None:
    assert come(served(gates=False), Bounds(accuracy=0.96)).stays == 1
