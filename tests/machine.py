"""A machine of one's own with systemd as its first process, made of this one: an overlay over `/`, booted by nspawn.

Role: what it takes to run delen's units for real, as root on a Linux that allows mounts and namespaces. `why_not` says
what is missing elsewhere. What is written in the machine is gone with it. The interpreter and its packages are bound to
places below /opt/delen, and this checkout is copied there, so that all lies where ProtectHome does not hide it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from delen.clients.service_files import Places, system_files
from delen.tests.source_files import ROOT

NSPAWN = os.environ.get("DELEN_NSPAWN") or shutil.which("systemd-nspawn")
INIT = Path("/lib/systemd/systemd")
HOME = Path("/opt/delen")
ROOMS = ("clients", "daemon", "exits", "policies", "profiles")
# Real time passes here, so all tests that use it are marked `pytest.mark.e2e`.
BOOT_S_MAX, WAIT_S_MAX = 60.0, 30.0
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = HOME / "python/bin" / VERSION
PYTHONPATH = f"{HOME}/lib:{HOME}/venv/lib/{VERSION}/site-packages"
WRAPPER = f"""#!/bin/sh
PYTHONPATH={PYTHONPATH} exec {PYTHON} -m delen "$@"
"""
# The machine's clock and log are enough; nothing of the host's own services is wanted in it.
TARGET = "basic.target"


def why_not() -> str | None:
    """What a machine cannot be made without; None if nothing is missing."""
    if os.getuid() != 0:
        return "needs root, for mounts and namespaces"
    if NSPAWN is None:
        return "needs systemd-nspawn: apt-get install systemd-container"
    if not INIT.exists():
        return "needs systemd: apt-get install systemd"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlayfs"
    with tempfile.TemporaryDirectory() as place:
        if _run("mount", "-t", "tmpfs", "tmpfs", place).returncode != 0:
            return "needs mount(2), which this container forbids"
        _run("umount", place)
    return None


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    said = list(map(str, command))
    return subprocess.run(said, capture_output=True, text=True, timeout=WAIT_S_MAX, check=False)


class Machine:
    """The machine, up for as long as a `with` block; delen's units are in it, not started."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.root = place / "root"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.init = 0
        self._log = place / "console"

    def __enter__(self) -> Machine:
        try:
            self._mount()
            self._furnish()
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for command in (
                ["systemctl", "status", "delen", "delen-engine@0"],
                ["journalctl", "--no-pager", "-n", "80"],
            ):
                sys.stderr.write(self.run(*command).stdout)
        self._end()

    # ---- what a test does in it

    def run(self, *command: str, ok: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in it. `ok`: it must succeed."""
        done = _run("nsenter", "-t", str(self.init), "-a", *command)
        assert not ok or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def delen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line tool as root."""
        return self.run("env", "DELEN_RUNTIME_DIR=/run/delen", str(HOME / "bin/delen"), *arguments)

    def show(self, unit: str, *properties: str) -> list[str]:
        """Properties of a unit, in the order asked for."""
        said = self.run("systemctl", "show", unit, *(f"-p{name}" for name in properties)).stdout
        found = dict(line.split("=", 1) for line in said.splitlines())
        return [found[name] for name in properties]

    def until(self, unit: str, name: str, value: str) -> None:
        """Wait until a property of a unit has this value."""
        self._until(lambda: f"={self.show(unit, name)[0]}.", f"={value}.")

    def until_status(self, part: str) -> None:
        """Wait until the front's status has these words."""
        self._until(lambda: self.show("delen.service", "StatusText")[0], part)

    def until_said(self, unit: str, part: str) -> None:
        """Wait until a unit has said these words."""
        self._until(lambda: self.journal(unit), part)

    def _until(self, look: Callable[[], str], part: str) -> None:
        give_up_s = time.monotonic() + WAIT_S_MAX
        while part not in (found := look()):
            assert time.monotonic() < give_up_s, f"{part!r} is not in {found[-500:]!r}"
            time.sleep(0.05)

    def start(self) -> None:
        """Have the daemon running and ready."""
        self.run("systemctl", "reset-failed", "delen", "delen-engine@0")
        self.run("systemctl", "start", "delen", ok=True)

    def reload(self) -> None:
        """Have the daemon take in its configuration, which must be one that it can."""
        count = self.journal("delen").count("configuration reloaded")
        self.run("systemctl", "reload", "delen", ok=True)
        self._until(lambda: f" {self.journal('delen').count('configuration reloaded')} ", f" {count + 1} ")

    def journal(self, unit: str) -> str:
        """What a unit has said so far."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout

    def host_pid(self, unit: str) -> int:
        """A unit's main process as this side of the machine numbers it."""
        inner = int(self.show(unit, "MainPID")[0])
        for process in psutil.Process(self.init).children(recursive=True):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("NSpid:") and int(line.split()[-1]) == inner:
                    return process.pid
        raise AssertionError(f"{unit} has no process")

    # ---- making it

    def _mount(self) -> None:
        layers = self._place / "layers"
        layers.mkdir()
        self.root.mkdir()
        assert _run("mount", "-t", "tmpfs", "tmpfs", layers).returncode == 0
        for name in ("upper", "work"):
            (layers / name).mkdir()
        options = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
        done = _run("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        assert done.returncode == 0, done.stderr

    def _furnish(self) -> None:
        """Put delen, its units, a configuration and a tenant into it."""
        home = self.root / HOME.relative_to("/")
        shutil.rmtree(home, ignore_errors=True)
        package = home / "lib" / "delen"
        package.mkdir(parents=True)
        shutil.copy(ROOT / "__init__.py", package)
        shutil.copy(ROOT / "__main__.py", package)
        for room in ROOMS:
            # With what was compiled here: nothing can be written there, and every start would compile anew.
            shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("results"))
        (home / "bin").mkdir()
        (home / "bin" / "delen").write_text(WRAPPER)
        (home / "bin" / "delen").chmod(0o755)
        (home / "venv").mkdir()
        (home / "python").mkdir()
        for path in (self.root / "etc/delen").glob("*"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
        places = Places(PYTHON, HOME / "bin/delen", self.root, ())
        for file in system_files(places):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_text(file.text)
        extra = self.root / "etc/systemd/system/delen-engine@.service.d/lib.conf"
        extra.parent.mkdir()
        extra.write_text(f"[Service]\nEnvironment=PYTHONPATH={PYTHONPATH}\n")

    def write(self, path: str, text: str) -> None:
        """A file in it, root's."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def _boot(self) -> None:
        assert NSPAWN is not None
        command = [NSPAWN, "-q", "-D", str(self.root), "-b", "--machine=delen-test", "--register=no", "--keep-unit"]
        command += ["--private-network", "--console=pipe", f"systemd.unit={TARGET}"]
        command[1:1] = [f"--bind-ro={sys.prefix}:{HOME}/venv", f"--bind-ro={sys.base_prefix}:{HOME}/python"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up_s = time.monotonic() + BOOT_S_MAX
        state = ""
        while state not in ("running", "degraded"):
            assert time.monotonic() < give_up_s, f"it does not boot: {state}: {self._log.read_text()[-2000:]}"
            assert self._nspawn.poll() is None, f"it ended: {self._log.read_text()[-2000:]}"
            time.sleep(0.1)
            children = psutil.Process(self._nspawn.pid).children()
            if children:
                self.init = children[0].pid
                state = self.run("systemctl", "is-system-running").stdout.strip()
        self.run("systemd-sysusers", "/etc/sysusers.d/delen.conf", ok=True)
        self.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/delen.conf", ok=True)

    def _end(self) -> None:
        if self._nspawn is not None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(self.init).kill()
                self._nspawn.kill()
                self._nspawn.wait()
        _run("umount", "-R", self.root)
        _run("umount", self._place / "layers")
