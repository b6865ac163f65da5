"""A client as users have it, in a process of its own: asks without pause, and says in the end what became of it all.

Role: `Asking` starts and stops it; the process itself is `python -m delen.tests.faults.asking ENDPOINT`, the asyncio
client in closed loops. Every call ends in a result or a typed error; how many ended how is printed when stdin closes.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: judge.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter

import numpy as np

from delen.clients.async_client import AsyncClient
from delen.clients.errors import DelenError

LOOPS, TIMEOUT_S = 8, 30.0


class Asking:
    """The process, from now until `stop`."""

    def __init__(self, endpoint: str) -> None:
        command = [sys.executable, "-m", "delen.tests.faults.asking", endpoint]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> Counter[str]:
        """No more calls; returns how those made have ended: `answer`, or an error's code."""
        told, _ = self._process.communicate(timeout=2 * TIMEOUT_S)
        return Counter(json.loads(told))


async def _loop(client: AsyncClient, number: int, ends: Counter[str], over: asyncio.Event) -> None:
    x = np.zeros((1, 8, 8), np.float32)
    while not over.is_set():
        ends["calls"] += 1
        x[0, 0, 0] = number + ends["calls"] * 1e-6
        try:
            await client.infer("digits", x)
        except DelenError as error:
            ends[error.code or type(error).__name__] += 1
        else:
            ends["answer"] += 1


async def _ask(endpoint: str) -> Counter[str]:
    ends: Counter[str] = Counter()
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    async with AsyncClient(endpoint=endpoint, timeout_s=TIMEOUT_S) as client:
        await asyncio.gather(*(_loop(client, number, ends, over) for number in range(LOOPS)))
    return ends


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_ask(sys.argv[1]))))
