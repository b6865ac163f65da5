"""Whether networks fit into memory, asked before any of them is loaded.

Role: add up what every worker process will need and compare it with what is free and what the operator allows. A load
that does not fit is refused with the sums, and whatever runs goes on: the kernel's way is to kill the largest process,
which is the one that serves. Does not: measure, or load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..exits.bundle import Bundle
from ..exits.memory_need import MIB, engine_bytes, memory_need
from ..profiles.board_memory import memory_available_bytes
from .config import Config
from .worker_process import Hosted

# Left to everybody else: the front, the kernel's buffers, a shell to look at it with.
RESERVE_BYTES = 64 * MIB


class MemoryShort(OSError):
    """It would not fit; as the system would have said later."""


def free_bytes(config: Config) -> int | None:
    """What workers may still take, as seen from the front; None: it cannot see that.

    Workers that systemd starts are in a control group of their own, whose limits are not the front's; they look at it
    themselves, before each load (`short_of_memory`).
    """
    return None if config.worker == "socket" else memory_available_bytes()


def short_of_memory(bundle: Bundle, batch_max: int) -> str | None:
    """For a worker about to load one network: why it would not fit; None where it would, or nobody can say."""
    available_bytes, need = memory_available_bytes(), memory_need(bundle, batch_max).total
    if available_bytes is None or need <= available_bytes - RESERVE_BYTES:
        return None
    left = f"{available_bytes / MIB:.0f} MiB are free, of which {RESERVE_BYTES / MIB:.0f} are left to others"
    said = f"{bundle.manifest.name} would take about {need / MIB:.0f} MiB, so it is not loaded; {left}"
    return f"{said}: serve fewer networks, a smaller limits.batch_max, or allow the engine's service more (MemoryMax=)"


def memory_fault(
    config: Config, workers: Sequence[Mapping[str, Hosted]], available_bytes: int | None, *, kept_bytes: int = 0
) -> str | None:
    """Why these worker processes would not fit; None where they would, or nobody can say.

    Args:
        workers: the networks of each process about to be started.
        available_bytes: free now; None: the system does not say.
        kept_bytes: what workers that run on meanwhile were reckoned to need; counts towards `memory_bytes_max`.
    """
    need = needed_bytes(config, workers)
    bundles = {each.bundle.manifest.name: each.bundle for worker in workers for each in worker.values()}
    parts = ", ".join(
        f"{name} {memory_need(bundle, config.limits.batch_max).total / MIB:.0f}" for name, bundle in bundles.items()
    )
    sums = (
        f"{_many(len(workers) * (1 + config.spare))} of the engine at {engine_bytes(config.engine) / MIB:.0f}; {parts}"
    )
    said = f"would take about {need / MIB:.0f} MiB ({sums})"
    help_ = "serve fewer networks, a smaller limits.batch_max, or no spare"
    allowed = config.memory_bytes_max
    if allowed is not None and need + kept_bytes > allowed:
        beside = f" beside {kept_bytes / MIB:.0f} MiB that run on until they are replaced" if kept_bytes else ""
        return f"{said}{beside}; memory_bytes_max allows {allowed / MIB:.0f} MiB: {help_}, or allow more"
    if available_bytes is not None and need > available_bytes - RESERVE_BYTES:
        left = f"{available_bytes / MIB:.0f} MiB are free, of which {RESERVE_BYTES / MIB:.0f} are left to others"
        return f"{said}; {left}: {help_}, or end something else"
    return None


def needed_bytes(config: Config, workers: Sequence[Mapping[str, Hosted]]) -> int:
    """What these processes take together, their spares included."""
    if config.engine == "replay":
        # It loads no graphs.
        return len(workers) * (1 + config.spare) * engine_bytes("replay")
    batch_max = config.limits.batch_max
    needs = [[memory_need(hosted.bundle, batch_max) for hosted in worker.values()] for worker in workers]
    each = [sum(need.total for need in some) for some in needs]
    return (1 + config.spare) * (sum(each) + len(each) * engine_bytes(config.engine))


def _many(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
