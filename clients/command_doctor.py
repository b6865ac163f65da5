"""`delen doctor`: what works on this machine, what does not, and what to do about it.

Flow: each check looks at one thing and gives findings; all are shown, and the command fails if one failed. Features are
probed, versions are only reported, so that a new release of a board's software breaks nothing here.

Does not: change anything, or need a daemon.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from .exit_codes import ExitCode
from .findings import Finding, State
from .options import connect, connection_options
from .tables import Column, json_option, print_json, print_table, say, warn

CORE_PACKAGES = ("numpy", "pyzmq", "msgspec", "click", "rich")
# A listener that runs out of descriptors ends the process (libzmq 4.3.5, ipc; at a limit of 128, 113 connections do).
OPEN_FILES_MIN = 1024


@click.command("doctor")
@connection_options
@click.option(
    "--devices",
    is_flag=True,
    help="Instead: let the services open the GPU that is here, and what meter and clock need.",
)
@click.option("--prefix", type=click.Path(file_okay=False, path_type=Path), help="With --devices: write below DIR.")
@json_option
def doctor_command(as_json: bool, devices: bool, prefix: Path | None, **options: Any) -> None:
    """Check Python, packages, engines, the board and its meters, directories and the daemon; say what to fix.

    Ends with 1 if a check failed. A warning is something delen does without.
    """
    if devices:
        _devices(prefix or Path("/"), as_json=as_json)
        return
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages, _engines, _networks, _board, _limits, _state]
    findings = [finding for check in checks for finding in _guarded(check)]
    findings += _guarded(lambda: _daemon(options["tenant"], options["endpoint"], options["timeout_s"]))
    healthy = all(finding.state != "fail" for finding in findings)
    if as_json:
        print_json({"ok": healthy, "findings": [finding._asdict() for finding in findings]})
    else:
        print_table([finding._asdict() for finding in findings], _COLUMNS)
    click.get_current_context().exit(ExitCode.OK if healthy else ExitCode.FAILED)


def _devices(root: Path, *, as_json: bool) -> None:
    """Let the engine's service open the GPU's nodes, and the front's what its configuration asks for; say which."""
    from . import command_doctor_service as front
    from .device_nodes import write_drop_in

    path, nodes = write_drop_in(root)
    front_path, faults = front.write_drop_in(root)
    written = [str(each) for each in (path, front_path) if each is not None]
    if as_json:
        print_json({"paths": written, "nodes": [node._asdict() for node in nodes], "faults": faults})
    else:
        if path is None:
            say("no GPU here: the engine needs no devices")
        else:
            print_table([node._asdict() for node in nodes], _NODE_COLUMNS)
        if written:
            say(f"wrote {', '.join(written)}; in force after: systemctl daemon-reload && systemctl restart delen")
    for fault in faults:
        warn(fault)
    for node in nodes:
        if not node.opens:
            warn(f"{node.path} opens for group {node.group} alone, and not to write: udev rules should say 0660")


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check that breaks on an odd machine is a finding too; the others still run."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except (OSError, ValueError, ImportError, LookupError) as error:
        name = check.__name__.strip("_<>").replace("lambda", "daemon")
        findings.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "please report this"))
    return findings


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.machine()}, {sys.executable}"
    right = sys.version_info >= (3, 10)
    yield Finding("python", "ok" if right else "fail", found, "" if right else "delen needs Python 3.10 or later")
    linux = sys.platform == "linux"
    yield Finding(
        "system",
        "ok" if linux else "fail",
        platform.platform(terse=True),
        "" if linux else "the daemon needs Linux (memfd, SOCK_SEQPACKET); clients run anywhere",
    )


def _packages() -> Iterator[Finding]:
    for name in CORE_PACKAGES:
        version = _version(name)
        fix = "" if version else "install delen again: it depends on this package"
        yield Finding(name, "ok" if version else "fail", version or "not installed", fix)
    for name, extra, use in (("pillow", "pictures", "picture files"), ("matplotlib", "report", "plots")):
        version = _version(name)
        fix = "" if version else f"for {use}: pip install 'delen[{extra}]'"
        yield Finding(name, "ok" if version else "warn", version or "not installed", fix)


def _engines() -> Iterator[Finding]:
    """ONNX Runtime is tried, since it is the default; PyTorch only looked for, since loading it takes seconds."""
    usable = 0
    try:
        from ..exits.onnx_runner import OnnxRunner

        runner = OnnxRunner()
        usable += 1
        yield Finding("engine onnx", "ok", f"{_spelled(runner.versions)} on {runner.device}")
    except (ImportError, OSError) as error:
        yield Finding("engine onnx", "warn", _first_line(error), "pip install 'delen[onnx]'")
    if importlib.util.find_spec("torch") is None:
        yield Finding("engine torch", "warn", "not installed", "optional: pip install 'delen[torch]'")
    elif importlib.util.find_spec("onnx") is None:
        yield Finding("engine torch", "warn", "onnx is not installed", "optional: pip install 'delen[torch]'")
    else:
        usable += 1
        yield Finding("engine torch", "ok", f"torch {_version('torch')}, onnx {_version('onnx')}; not tried")
    if not usable:
        yield Finding("engines", "fail", "none is usable", "pip install 'delen[onnx]'")


def _networks() -> Iterator[Finding]:
    from ..exits.bundle import Bundle, BundleError, load_bundle, shipped_directory
    from .command_doctor_board import memory

    bundles: list[Bundle] = []
    directory = shipped_directory()
    found = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    if not found:
        yield Finding("networks", "fail", f"no bundles in {directory}", "install delen again")
    for path in found:
        try:
            bundles.append(load_bundle(path))
        except BundleError as error:
            yield Finding(f"network {path.name}", "fail", str(error), "install delen again")
        else:
            manifest = bundles[-1].manifest
            yield Finding(f"network {path.name}", "ok", f"version {manifest.version}, {len(manifest.exits)} exits")
    yield from memory(bundles=bundles)


def _board() -> Iterator[Finding]:
    from ..profiles.board import read_board, temperature_c
    from .command_doctor_board import gpu, meters, power_mode, software

    board = read_board()
    yield Finding("board", "ok", f"{board.board}, {board.processor}, {board.cores} cores")
    heat = temperature_c()
    yield Finding("temperature", "ok" if heat is not None else "warn", "no sensor" if heat is None else f"{heat:.1f} C")
    for look in (software, gpu, power_mode, meters):
        yield from look()


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= OPEN_FILES_MIN or soft == resource.RLIM_INFINITY
    fix = "" if enough else f"ulimit -n {OPEN_FILES_MIN}, or LimitNOFILE= in the unit: a flood of connections ends it"
    yield Finding("open files", "ok" if enough else "fail", f"{soft} of at most {hard}", fix)


def _state() -> Iterator[Finding]:
    from ..profiles.store import SYSTEM_STATE, state_directory
    from .command_doctor_board import held_clock
    from .places import runtime_directories

    state = state_directory(os.environ, os.getuid())
    yield _directory("state directory", state, "name another with --state-dir or DELEN_STATE_DIR")
    yield from _kept(state)
    yield from held_clock(dict.fromkeys([state, SYSTEM_STATE]))
    runtime = runtime_directories(os.environ, os.getuid())[0]
    yield _directory("runtime directory", runtime, "name another with --runtime-dir or DELEN_RUNTIME_DIR")


def _kept(state: Path) -> Iterator[Finding]:
    """What delen keeps there; damage that is mended at the next start is a warning."""
    try:
        from ..daemon.state_health import look

        for part in look(state):
            yield Finding(part.name, "warn" if part.fix else "ok", part.found, part.fix)
    except OSError as error:
        yield Finding("state files", "fail", f"{error.filename or state}: {error.strerror}", "check owner and rights")


def _directory(name: str, path: Path, fix: str) -> Finding:
    """Can this user write there, or make it?"""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        return Finding(name, "fail", f"{path}: no right to write in {existing}", fix)
    status = existing.stat()
    if existing == path and status.st_uid == os.getuid() and status.st_mode & 0o002:
        return Finding(name, "warn", f"{path}: anybody may write there", f"chmod o-w {path}")
    return Finding(name, "ok", f"{path}" if existing == path else f"{path}: will be made")


def _daemon(tenant: str | None, endpoint: str | None, timeout_s: float) -> Iterator[Finding]:
    from .errors import DelenError

    try:
        with connect(tenant, endpoint, timeout_s) as client:
            stats = client.stats()
    except DelenError as error:
        yield Finding("daemon", "warn", str(error.args[0]), error.hint)
    else:
        found = f"up {stats.uptime_us // 1_000_000} s, worker {stats.worker}, {stats.worker_restarts} restarts"
        yield Finding("daemon", "ok", found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _spelled(versions: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _state_mark(state: State) -> Text:
    return Text(state, style={"ok": "green", "warn": "yellow", "fail": "bold red"}[state])


_NODE_COLUMNS = tuple(Column(name, name, justify="left") for name in ("path", "group", "mode"))
_COLUMNS = (
    Column("state", "", _state_mark, justify="left"),
    Column("check", "check", justify="left"),
    Column("found", "found", justify="left"),
    Column("fix", "what to do", justify="left"),
)
