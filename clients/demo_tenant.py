"""One tenant of the demo, a process of its own: a plain client that asks at its own pace and notes what it gets.

Role: `python -m delen.clients.demo_tenant ROLE.json OUTCOMES.json`. Says `ready` on stdout, waits for a line on stdin,
then one JSON line per second for the live table; its outcomes go to the file. Talks to the daemon through the SDK only.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .arrivals import Phase, poisson_phases
from .client import Client
from .demo import Role
from .load import Outcome, Questions, Run, server
from .load_report import LoadReport, report


class Second(msgspec.Struct, frozen=True):
    """What one tenant saw in one second; latencies by its own clock, from send to receipt."""

    name: str
    second: int
    report: LoadReport


def main(role_file: str, outcomes_file: str) -> None:
    """Play one role to its end."""
    role = msgspec.json.decode(Path(role_file).read_bytes(), type=Role)
    with np.load(role.inputs, allow_pickle=False) as data:
        inputs, labels = data["inputs"], data["labels"]
    rng = np.random.default_rng(role.seed)
    phases = [Phase(index * role.phase_s, (index + 1) * role.phase_s, rate) for index, rate in enumerate(role.rates_hz)]
    arrivals = poisson_phases(phases, rng)
    # Own order for each tenant: no two ask for the same image at the same time.
    order = rng.permutation(len(labels))
    arguments: dict[str, Any] = {**role.bounds, "timeout_s": 30.0}
    questions = Questions(role.network, inputs[order], labels[order].tolist(), arguments)
    with Client(role.name) as client:
        client.networks()
        _write(b"ready")
        sys.stdin.readline()
        # Outcomes pile up and are all kept; the collector would only add pauses to what is measured.
        gc.disable()
        run = Run(client, questions, on_second=lambda second, part: _tell(role.name, second, part))
        outcomes = server(run, arrivals)
    Path(outcomes_file).write_bytes(msgspec.json.encode(outcomes))


def _tell(name: str, second: int, part: list[Outcome]) -> None:
    _write(msgspec.json.encode(Second(name, second, report(part))))


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
