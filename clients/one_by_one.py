"""Inputs asked for one after the other at a private daemon: what benchmarks of single requests need.

Does not: send ahead, retry, or read anything but the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from .client import Client
from .private_daemon import PrivateDaemon
from .results import Result
from .wire import Array

TENANT = "bench"
Ask: TypeAlias = Callable[[Array, Mapping[str, Any]], Sequence[Result]]


@contextmanager
def serving(bundle: str, state_dir: Path, arguments: Sequence[str] = ()) -> Iterator[Ask]:
    """A private daemon with one network; `arguments`: of `delen serve`. Raises DaemonFailed, DelenError."""
    with (
        PrivateDaemon([TENANT], [bundle], state_dir=state_dir, arguments=arguments) as daemon,
        Client(TENANT, endpoint=daemon.endpoint(TENANT)) as client,
    ):
        (network,) = (one.name for one in client.networks())
        yield lambda inputs, bounds: [client.infer(network, one, **bounds) for one in inputs]
