"""Round trips of whatever delen can be imported here, as many as are asked for: one side of `rtt_against.py`.

Role: a program, started with the networks and their inputs' shapes as JSON, since two versions of a package cannot be
imported into one process. It starts a daemon of its version and says so; then a line `NETWORK WARM COUNT` on standard
input is answered by one of JSON: the times of COUNT round trips after WARM unmeasured ones, and of the engine in them.
Of its version it uses only what every version has: `Client` and `PrivateDaemon`. Does not: import anything else of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module

import numpy as np


def main() -> None:
    """Serve standard input until it ends."""
    # Whichever is found first: this file belongs to none.
    client_of = import_module("delen.clients.client").Client
    daemon_of = import_module("delen.clients.private_daemon").PrivateDaemon
    shapes: dict[str, list[int]] = json.loads(sys.argv[-1])
    inputs = {name: np.random.default_rng(0).standard_normal(shape, np.float32) for name, shape in shapes.items()}
    # Nothing but replies goes where they are read, whatever a version or a library prints.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with daemon_of(["bench"], list(shapes)) as daemon, client_of("bench", endpoint=daemon.endpoint("bench")) as client:
        replies.write("ready\n")
        for line in sys.stdin:
            network, warm, count = line.split()
            delen_us, engine_us = [], []
            for _ in range(int(warm)):
                client.infer(network, inputs[network])
            for _ in range(int(count)):
                start_ns = time.perf_counter_ns()
                result = client.infer(network, inputs[network])
                delen_us.append((time.perf_counter_ns() - start_ns) / 1000)
                engine_us.append(float(result.answer.compute_us))
            replies.write(json.dumps([delen_us, engine_us]) + "\n")


if __name__ == "__main__":
    main()
