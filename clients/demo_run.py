"""Run the demo's tenants as separate processes against one daemon, and collect what they saw.

Role: between the story (`demo.py`) and the screen (`demo_view.py`). Flow: start all -> wait until all are ready -> one
line to each -> pass on their seconds -> read their outcomes. Does not: plan, compute or draw.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from .demo import Role
from .demo_tenant import Second
from .errors import DelenError
from .load import Outcome
from .private_daemon import PrivateDaemon

END_S_MAX = 45.0


class DemoFailed(DelenError):
    """A tenant's process ended early; its own message is on stderr."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="demo")


def play(
    daemon: PrivateDaemon, roles: Sequence[Role], scratch: Path, on_second: Callable[[Second], None]
) -> dict[str, list[Outcome]]:
    """Every role's outcomes, by tenant. Raises DemoFailed."""
    players: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for role in roles:
            file = scratch / f"{role.name}.role.json"
            file.write_bytes(msgspec.json.encode(role))
            players[role.name] = subprocess.Popen(
                [sys.executable, "-m", "delen.clients.demo_tenant", str(file), str(_outcomes(scratch, role))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=daemon.environ,
            )
        for name, player in players.items():
            assert player.stdout is not None
            if player.stdout.readline() != b"ready\n":
                raise DemoFailed(f"tenant {name} could not start; the daemon said: {daemon.log()[-500:]}")
        for player in players.values():
            assert player.stdin is not None
            player.stdin.write(b"go\n")
            player.stdin.flush()
        _follow(players, on_second)
        for name, player in players.items():
            if player.wait(END_S_MAX) != 0:
                raise DemoFailed(f"tenant {name} ended with exit code {player.returncode}")
    finally:
        for player in players.values():
            if player.poll() is None:
                player.kill()
                player.wait()
            for pipe in (player.stdin, player.stdout):
                if pipe is not None:
                    pipe.close()
    decoder = msgspec.json.Decoder(list[Outcome])
    return {role.name: decoder.decode(_outcomes(scratch, role).read_bytes()) for role in roles}


def _follow(players: dict[str, subprocess.Popen[bytes]], on_second: Callable[[Second], None]) -> None:
    """Pass on what the tenants say until all have closed their output."""
    with selectors.DefaultSelector() as selector:
        for player in players.values():
            assert player.stdout is not None
            selector.register(player.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.fileobj
                assert not isinstance(stream, int)
                line = stream.readline()  # type: ignore[attr-defined]
                if line:
                    on_second(msgspec.json.decode(line, type=Second))
                else:
                    selector.unregister(stream)


def _outcomes(scratch: Path, role: Role) -> Path:
    return scratch / f"{role.name}.outcomes.json"
