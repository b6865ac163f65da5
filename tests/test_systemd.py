"""delen's units under a real systemd, as the first process of a machine of their own: what is promised of a service.

Ready means ready, status is told, the watchdog ends what hangs, a reload takes all or nothing, an end drains, and the
sandbox holds. Needs root, mounts and systemd-nspawn; elsewhere these tests are skipped and say why.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.clients.exit_codes import ExitCode
from delen.tests.board_trees import BOARDS, plant_board
from delen.tests.machine import Machine, why_not

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = 'networks = ["digits"]\n'
# 1234 is nobody the machine knows by name: only its number counts.
TENANT = 'uids = [0, 1234]\nnetworks = ["digits"]\n'
FRONT, ENGINE = "delen.service", "delen-engine@0.service"
# Shorter waits than an operator would want, so that what is tested is seen within seconds.
SHORT = "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    with Machine(tmp_path_factory.mktemp("machine")) as machine:
        machine.write("/etc/delen/delen.toml", CONFIG)
        machine.write("/etc/delen/tenants.d/a.toml", TENANT)
        machine.run("chgrp", "-R", "delen", "/etc/delen", ok=True)
        machine.write("/etc/systemd/system/delen.service.d/short.conf", SHORT)
        machine.run("systemctl", "daemon-reload", ok=True)
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """The machine with the daemon running."""
    booted.start()
    return booted


def asked(machine: Machine, *before: str) -> subprocess.CompletedProcess[str]:
    """One request as tenant a, perhaps as another user."""
    return machine.run(*before, *ASK)


ASK = (
    "env",
    "DELEN_RUNTIME_DIR=/run/delen",
    "/opt/delen/bin/delen",
    "infer",
    "digits",
    "--sample",
    "0",
    "--tenant",
    "a",
)


def test_ready_is_ready_and_the_status_is_told(machine: Machine) -> None:
    active, kind, status = machine.show(FRONT, "ActiveState", "Type", "StatusText")
    assert (active, kind) == ("active", "notify")
    assert status.startswith("serving digits to 1 tenants; ")
    assert status.endswith("pending; worker ready")
    assert asked(machine).returncode == 0
    assert machine.show(ENGINE, "ActiveState", "StatusText") == ["active", "runs digits"]
    # A tenant by its number alone, with no group and no right but to reach its own socket.
    done = asked(machine, "setpriv", "--reuid=1234", "--regid=1234", "--clear-groups")
    assert done.returncode == 0, done.stderr
    assert asked(machine, "setpriv", "--reuid=1235", "--regid=1235", "--clear-groups").returncode != 0


def test_the_sandbox_holds(machine: Machine) -> None:
    for unit, user in ((FRONT, "delen"), (ENGINE, "delen-engine")):
        pid = machine.host_pid(unit)
        said = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert (said["NoNewPrivs"], said["Seccomp"], int(said["CapEff"], 16)) == ("1", "2", 0), unit
        assert said["Uid"].split()[0] == machine.run("id", "-u", user).stdout.strip()
        inside = ("nsenter", "-t", str(pid), "-m", "-n")
        for path in ("/etc/mine", "/usr/mine", "/opt/delen/lib/mine"):
            done = subprocess.run([*inside, "touch", path], capture_output=True, text=True, check=False)
            assert "Read-only file system" in done.stderr, (unit, path)
        links = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [link.split(":")[0].strip() for link in links] == ["lo"], unit
        home = Path(f"/proc/{pid}/root", "root")
        assert home.is_dir()
        assert not list(home.iterdir()), "ProtectHome"
    engine = machine.host_pid(ENGINE)
    for hidden in ("run/delen", "etc/delen/keys", "etc/delen/tenants.d"):
        done = subprocess.run(
            ["nsenter", "-t", str(engine), "-m", "ls", f"/{hidden}/"], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode != 0 or not done.stdout) == ("", True), hidden
    mode = machine.run("stat", "-c", "%a %U %G", "/run/delen-engine/ctl").stdout.split()
    assert mode == ["660", "delen", "delen-engine"]


def test_a_reload_takes_all_or_nothing(machine: Machine) -> None:
    before = machine.show(FRONT, "MainPID", "NRestarts")
    machine.write("/etc/delen/tenants.d/b.toml", TENANT)
    machine.reload()
    assert "configuration reloaded; 2 tenants" in machine.journal(FRONT)
    machine.until_status("serving digits to 2 tenants")
    assert machine.run(*ASK[:-1], "b").returncode == 0
    machine.write("/etc/delen/tenants.d/c.toml", "uids = [0]\nweight = -1.0\n")
    assert machine.run("systemctl", "reload", "delen").returncode != 0
    assert "/etc/delen/tenants.d/c.toml" in machine.journal(FRONT)
    # Also where nobody looked before: the daemon does.
    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "HUP", "delen", ok=True)
    machine.until_said(FRONT, "configuration not reloaded, all stays as it was")
    assert machine.run(*ASK[:-1], "b").returncode == 0
    for name in ("b", "c"):
        machine.run("rm", f"/etc/delen/tenants.d/{name}.toml")
    machine.reload()
    machine.until_status("serving digits to 1 tenants")
    assert machine.show(FRONT, "MainPID", "NRestarts") == before


def test_an_engine_that_dies_or_hangs_is_started_again_and_the_front_stays(machine: Machine) -> None:
    front = machine.show(FRONT, "MainPID", "NRestarts")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        engine = machine.show(ENGINE, "MainPID")
        os.kill(machine.host_pid(ENGINE), number)
        # The one that hangs costs the front its patience first, and whoever asked an answer in time.
        assert asked(machine).returncode == 0
        assert machine.show(ENGINE, "MainPID") != engine
        assert asked(machine).returncode == 0
    assert machine.show(FRONT, "MainPID", "NRestarts") == front


def test_a_front_that_hangs_is_ended_by_the_watchdog_and_is_back(machine: Machine) -> None:
    (restarts,) = machine.show(FRONT, "NRestarts")
    os.kill(machine.host_pid(FRONT), signal.SIGSTOP)
    machine.until(FRONT, "NRestarts", str(int(restarts) + 1))
    machine.until(FRONT, "ActiveState", "active")
    assert "Watchdog timeout (limit 2s)!" in machine.run("journalctl", "--no-pager", "-o", "cat", "-u", FRONT).stdout
    assert asked(machine).returncode == 0


def test_a_front_that_is_killed_is_back_and_serves(machine: Machine) -> None:
    (restarts,) = machine.show(FRONT, "NRestarts")
    os.kill(machine.host_pid(FRONT), signal.SIGKILL)
    machine.until(FRONT, "NRestarts", str(int(restarts) + 1))
    machine.until(FRONT, "ActiveState", "active")
    assert asked(machine).returncode == 0


def test_a_stop_finishes_what_was_accepted(machine: Machine) -> None:
    # Held for longer than any run should take, and not to be taken for hung.
    machine.write("/etc/delen/delen.toml", CONFIG + "[limits]\nrun_ms_min = 20000\n")
    machine.reload()
    machine.write("/etc/delen/delen.toml", CONFIG)
    engine = machine.host_pid(ENGINE)
    os.kill(engine, signal.SIGSTOP)
    command = ["nsenter", "-t", str(machine.init), "-a", *ASK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        machine.until_status("1 pending")
        machine.run("systemctl", "stop", "--no-block", "delen", ok=True)
        machine.until_status("ending; 1 requests to finish")
        os.kill(engine, signal.SIGCONT)
        _, said = asking.communicate(timeout=30)
        assert asking.returncode == 0, said
    machine.until(FRONT, "ActiveState", "inactive")
    assert machine.show(FRONT, "Result", "ExecMainStatus") == ["success", "0"]
    machine.until(ENGINE, "ActiveState", "inactive")


def test_the_front_sets_the_clock_it_is_told_to_set_and_no_other_file_of_the_system(booted: Machine) -> None:
    booted.run("systemctl", "stop", "delen")
    # This machine has no such GPU, and sysfs lets nobody make one.
    booted.run("mount", "-t", "tmpfs", "tmpfs", "/sys/class", ok=True)
    folder = "/sys/class/devfreq/17000000.gp10b"
    booted.run("mkdir", "-p", folder, ok=True)
    for name, hertz in (("min_freq", 1), ("max_freq", 2), ("cur_freq", 1), ("available_frequencies", 1)):
        booted.run("sh", "-c", f"echo {hertz}000000 > {folder}/{name}", ok=True)
    clock = 'policy = "clock"\nclocks = "may-set"\nmeter = "none"\n'
    try:
        booted.write("/etc/delen/delen.toml", clock + CONFIG)
        booted.start()
        assert "no right to set the GPU's clock" in booted.journal(FRONT)
        count = booted.journal(FRONT).count("the clock stays as it is")
        said = booted.delen("doctor", "--devices")
        assert "delen.service.d/board.conf" in said.stdout + said.stderr
        booted.run("systemctl", "daemon-reload", ok=True)
        booted.run("systemctl", "restart", "delen", ok=True)
        assert booted.journal(FRONT).count("the clock stays as it is") == count
        as_front = ("nsenter", "-t", str(booted.host_pid(FRONT)), "-m", "setpriv", "--reuid=delen", "--regid=delen")
        for name, code in (("max_freq", 0), ("cur_freq", 1)):
            write = (*as_front, "--clear-groups", "sh", "-c", f"echo 1000000 > {folder}/{name}")
            assert (subprocess.run(write, capture_output=True, check=False).returncode != 0) == code, name
    finally:
        booted.run("systemctl", "stop", "delen")
        booted.write("/etc/delen/delen.toml", CONFIG)
        booted.run("umount", "/sys/class")
        booted.run("rm", "-f", "/etc/systemd/system/delen.service.d/board.conf")
        booted.run("systemctl", "daemon-reload")


def test_a_meter_is_read_from_within_the_sandbox(booted: Machine) -> None:
    booted.run("systemctl", "stop", "delen")
    plant_board(booted.root / "plant", BOARDS["orin-nano"])
    booted.run("mount", "--bind", "/plant/sys/bus", "/sys/bus", ok=True)
    try:
        booted.start()
        booted.until_said(FRONT, "power meter INA3221 VDD_IN: the module: reading")
    finally:
        booted.run("systemctl", "stop", "delen")
        booted.run("umount", "/sys/bus")


def test_what_no_restart_mends_is_not_restarted(booted: Machine) -> None:
    booted.run("systemctl", "stop", "delen")
    booted.write("/etc/delen/delen.toml", CONFIG + "theads = 2\n")
    try:
        assert booted.run("systemctl", "start", "delen").returncode != 0
        assert booted.show(FRONT, "ActiveState", "ExecMainStatus") == ["failed", str(int(ExitCode.BAD_CONFIG))]
        assert "theads" in booted.journal(FRONT)
    finally:
        booted.write("/etc/delen/delen.toml", CONFIG)
    booted.start()
    second = booted.run("setpriv", "--reuid=delen", "--regid=delen", "--clear-groups", *SERVE)
    assert second.returncode == ExitCode.ALREADY_RUNNING, second.stderr
    assert asked(booted).returncode == 0


SERVE = (
    *("env", "DELEN_RUNTIME_DIR=/run/delen", "DELEN_STATE_DIR=/var/lib/delen", "/opt/delen/bin/delen", "serve"),
    *("--config", "/etc/delen/delen.toml"),
)
