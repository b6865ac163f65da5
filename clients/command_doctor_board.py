"""The part of `delen doctor` that looks at the board: its software, GPU, power mode, meters and memory.

Flow: each check looks at one thing under `root`, which is / outside tests, and gives findings with what to do. What a
machine that is no Jetson has not is no fault of it. Does not: change anything, or decide by a table of versions.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .findings import Finding, State

if TYPE_CHECKING:
    from ..exits.bundle import Bundle
    from ..profiles.board_software import Software

ROOT = Path("/")
MIB = 1024**2


def software(root: Path = ROOT) -> Iterator[Finding]:
    """JetPack, and whether this Python is the one its packages are for."""
    from ..profiles.board_software import read_software

    found = read_software(root)
    if not found.jetson:
        return
    parts = [
        f"JetPack {found.jetpack}" if found.jetpack else "JetPack's own package is not installed",
        *(f"{name} {version}" for name, version in _versions(found).items() if version),
    ]
    fix = "" if found.jetpack else "sudo apt-get install nvidia-jetpack brings CUDA and TensorRT"
    yield Finding("jetpack", "ok" if found.jetpack or found.tensorrt else "warn", ", ".join(parts), fix)
    here = _here()
    if found.python is not None and found.python != here:
        fix = f"make the environment with {found.python}: python{found.python} -m venv --system-site-packages DIR"
        yield Finding("python of the board", "warn", f"the system's is {found.python}, this is {here}", fix)
    yield _tensorrt(found, here)


def _versions(found: Software) -> dict[str, str | None]:
    return {"L4T": found.l4t, "CUDA": found.cuda, "TensorRT": found.tensorrt}


def _tensorrt(found: Software, here: str) -> Finding:
    """JetPack's bindings lie beside the system's Python and are no wheel: an environment must let them in."""
    if _importable("tensorrt"):
        return Finding("engine tensorrt", "ok", f"TensorRT {found.tensorrt or 'of a wheel'} is importable; not tried")
    if here in found.tensorrt_pythons:
        fix = "make the environment anew with --system-site-packages; do not install a TensorRT wheel over it"
        return Finding("engine tensorrt", "warn", f"JetPack has it for this Python {here}, hidden here", fix)
    if found.tensorrt_pythons:
        known = ", ".join(found.tensorrt_pythons)
        return Finding("engine tensorrt", "warn", f"JetPack has it for Python {known}, not {here}", f"use {known}")
    fix = "sudo apt-get install python3-libnvinfer, or go on with ONNX Runtime or PyTorch"
    return Finding("engine tensorrt", "warn", "no Python bindings of TensorRT are installed", fix)


def gpu(root: Path = ROOT) -> Iterator[Finding]:
    """The GPU's device nodes, and whether this user may open them; what talks to it."""
    from .device_nodes import device_nodes

    nodes = device_nodes(root / "dev")
    if not nodes:
        yield Finding("gpu", "ok", "no device nodes of a GPU here: networks run on the processor")
        return
    closed = [node for node in nodes if not os.access(node.path, os.R_OK | os.W_OK)]
    groups = sorted({node.group for node in closed if node.group != "root"})
    named = ", ".join(node.path for node in (closed or nodes)[:4])
    if closed:
        fix = f"sudo usermod -aG {','.join(groups) or 'video,render'} $USER, and log in again"
        fix += "; for the service: delen doctor --devices"
        yield Finding("gpu", "warn", f"may not open {len(closed)} of {len(nodes)} nodes: {named}", fix)
    else:
        yield Finding("gpu", "ok", f"{len(nodes)} device nodes open for this user: {named}")
    drivers = [name for name in ("cuda", "pycuda") if _importable(name)]
    fix = (
        "" if drivers else "for the tensorrt engine: pip install 'delen[jetson]', or 'delen[pycuda]' built on the board"
    )
    yield Finding("cuda memory", "ok" if drivers else "warn", ", ".join(drivers) or "neither cuda nor pycuda", fix)


def power_mode(root: Path = ROOT) -> Iterator[Finding]:
    """The mode that is set, and which there are."""
    from ..profiles.board import jetson_modes, read_board

    board = read_board(root)
    _, names = jetson_modes(root)
    others = f"; there are: {', '.join(names.values())}" if len(names) > 1 else ""
    fix = "" if board.power_mode else "profiles cannot tell one power mode from another here"
    found = f"{board.power_mode or 'the board does not say'}{others}"
    yield Finding("power mode", "ok" if board.power_mode else "warn", found, fix)


def held_clock(states: Iterable[Path], root: Path = ROOT) -> Iterator[Finding]:
    """A GPU's clock that a daemon held when it was killed; `states`: directories that daemons may have had."""
    from ..daemon.clock_limits import limits_path, read_limits
    from ..profiles.board_clocks import ClockError, find_gpu

    for state in states:
        if not os.access(limits_path(state), os.R_OK):
            # Also where this user may not look; the daemon's own may.
            continue
        try:
            limits = read_limits(state, root)
        except ClockError as error:
            yield Finding("GPU's clock", "warn", str(error), "and compare them with those after the next boot")
            continue
        if limits is None or limits.held:
            continue
        gpu = find_gpu(root)
        span = f"{limits.min_hz / 1e6:g} to {limits.max_hz / 1e6:g} MHz"
        fix = "start the daemon, which gives them back"
        if gpu is not None:
            fix += f"; or as root, in {gpu.path}: echo {limits.max_hz} > max_freq, echo {limits.min_hz} > min_freq, and"
            fix += f" remove {limits_path(state)}"
        found = f"held by a daemon that was killed (pid {limits.pid}); its limits were {span}"
        yield Finding("GPU's clock", "warn", found, fix)


def meters(root: Path = ROOT) -> Iterator[Finding]:
    """Every power meter that is here or nearly: its rails, what it reads, what is wrong with it; and which is used."""
    from ..profiles.meter_ina3221 import chosen, find_rails, rail_power_mw
    from ..profiles.meters import MeterError, find_sensor, meter_signs

    rails = find_rails(root)
    if rails:
        used = {rail.name for rail in chosen(rails)[0]}
        for rail in rails:
            power_mw = rail_power_mw(rail)
            said = "reads nothing that makes sense" if power_mw is None else f"{power_mw / 1000:.2f} W"
            fix = "" if power_mw is not None else f"look at {rail.files[0]}: right to read it, driver loaded?"
            state: State = "ok" if power_mw is not None or rail.name not in used else "warn"
            yield Finding(f"rail {rail.name}", state, said + (", part of the figure" if rail.name in used else ""), fix)
    for kind, wanted in meter_signs(root).items():
        try:
            sensor = find_sensor(kind, root)
        except MeterError as error:
            if wanted:
                yield Finding(f"meter {kind}", "warn", str(error).partition(": ")[2], _meter_fix(kind))
            continue
        if sensor is not None:
            yield Finding(f"meter {kind}", "ok", f"{sensor.name}: {sensor.covers}")
            sensor.close()
    yield from _used(root)


def _used(root: Path) -> Iterator[Finding]:
    from ..profiles.meters import best_meter

    meter = best_meter(root)
    found = meter.source == "measured"
    fix = "" if found else "energies are labelled so everywhere; set watts in the configuration to this board's"
    yield Finding("power meter", "ok" if found else "warn", f"{meter.source}: {meter.model}", fix)


def _meter_fix(kind: str) -> str:
    return {
        "jtop": "pip install 'delen[jetson]', in the version of the board's own jtop; join its group, jtop",
        "nvml": "pip install 'delen[nvml]'",
        "rapl": "its counters are root's alone: let a group read energy_uj; for the service: delen doctor --devices",
    }[kind]


def memory(root: Path = ROOT, bundles: Sequence[Bundle] = (), batch_max: int = 32) -> Iterator[Finding]:
    """What is free against what these networks would take together in one process of ONNX Runtime."""
    from ..exits.memory_need import engine_bytes, memory_need
    from ..profiles.board_memory import memory_available_bytes

    available = memory_available_bytes(root)
    if available is None:
        yield Finding("memory", "warn", "the system does not say how much is free", "see that /proc is mounted")
        return
    needs = {bundle.manifest.name: memory_need(bundle, batch_max).total for bundle in bundles}
    need = engine_bytes("onnx") + sum(needs.values())
    parts = ", ".join(f"{name} {bytes_ / MIB:.0f}" for name, bytes_ in needs.items())
    found = f"{available / MIB:,.0f} MiB free; all networks here at batch {batch_max}: {need / MIB:.0f} ({parts})"
    fits = available > 1.25 * need
    fix = "" if fits else "serve fewer networks, or a smaller limits.batch_max; a load that does not fit is refused"
    yield Finding("memory", "ok" if fits else "warn", found, fix)


def _here() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _importable(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None
