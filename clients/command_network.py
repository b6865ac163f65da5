"""`delen network`: add, swap or take away a network while the daemon serves.

Role: one message to the daemon, which does the work and answers when it is done; what is served meanwhile is not
touched. Does not: change the configuration, which says what is served after a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import connect, connection_options
from .tables import json_option, print_json, say

# A large network on a small board is measured for seconds and may be built for longer.
LOADED_S_MAX = 300.0


@click.group("network")
def network_command() -> None:
    """Change which networks are served, under load: nobody's request is lost.

    For tenants that may (manages = true; all may with --dev). For a restart, change the configuration too.
    """


def _asks(action: str, said: str, told: str) -> None:
    @network_command.command(action, help=said)
    @click.argument("bundle", metavar="NETWORK")
    @connection_options
    @json_option
    def command(bundle: str, as_json: bool, **options: Any) -> None:
        # The daemon's working directory is not this one's.
        named = str(Path(bundle).resolve()) if action != "remove" and Path(bundle).is_dir() else bundle
        timeout_s = max(options["timeout_s"], LOADED_S_MAX)
        with connect(options["tenant"], options["endpoint"], timeout_s, options["wait_s"]) as client:
            done = client.manage(action, named)
        if as_json:
            print_json({"network": done.network, "version": done.network_version})
        else:
            say(told.format(name=done.network, version=done.network_version))


_asks("add", "Serve the bundle NETWORK (a directory, or its name) too.", "{name} {version} is served")
_asks("swap", "Serve the bundle NETWORK in place of the one of its name.", "{name} {version} is served from now on")
_asks("remove", "Serve NETWORK no more.", "{name} is served no more")
