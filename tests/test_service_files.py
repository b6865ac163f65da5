"""The service files as systemd's own tools see them, and what install, uninstall and doctor do with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delen.clients import command_doctor_service, command_install, device_nodes, service_files
from delen.clients.cli import delen
from delen.clients.command_doctor_service import Opened
from delen.clients.exit_codes import ExitCode
from delen.clients.service_files import HIDDEN, OURS, PRIVATE, Places, filled, system_files
from delen.daemon.config import Limits, load_config
from delen.tests.jetson_tree import jetson_tree, put

TRUE = Path(shutil.which("true") or "/bin/true")
PLACES = Places(TRUE, TRUE, groups=())
# systemd 250 learned `security --offline`; older ones have nothing to say here.
SYSTEMD = shutil.which("systemd-analyze")
analysed = pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze: apt-get install systemd")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(delen, arguments)


def analyse(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert SYSTEMD is not None
    environ = {**os.environ, "SYSTEMD_COLORS": "0"}
    command = [SYSTEMD, *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the service's files in it, for an installation that is nothing but /bin/true."""
    monkeypatch.setattr(command_install, "_places", lambda prefix: PLACES._replace(root=prefix or tmp_path))
    done = run("install-service", "--prefix", str(tmp_path))
    assert done.exit_code == 0, done.output
    return tmp_path


# ---- as systemd sees them


@analysed
@pytest.mark.slow
def test_every_unit_is_one_that_systemd_reads_without_a_word(installed: Path) -> None:
    user = installed / "delen.service"
    user.write_text(filled("delen-user.service", PLACES))
    units = installed / "etc/systemd/system"
    # It exits with 0 on keys that it does not know; what it thinks of them is on stderr.
    for arguments in ((units / "delen.service", units / "delen-engine@.service"), (user,)):
        done = analyse("verify", *arguments)
        assert (done.returncode, done.stderr) == (0, "")


def exposure(unit: Path) -> float:
    done = analyse("security", "--offline=true", "--threshold=100", unit)
    if "--offline" in done.stderr:
        pytest.skip("this systemd-analyze knows no --offline (before 250)")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done
    return float(found[1])


@analysed
@pytest.mark.slow
@pytest.mark.parametrize(("unit", "most"), [("delen.service", 0.5), ("delen-engine@.service", 1.0)])
def test_units_expose_no_more_than_promised(installed: Path, unit: str, most: float) -> None:
    path = installed / "etc/systemd/system" / unit
    assert exposure(path) <= most
    said = re.search(r"Exposure ([0-9.]+) by", path.read_text())
    assert said is not None
    # Other versions of systemd ask for a little more, or less.
    assert float(said[1]) == pytest.approx(exposure(path), abs=0.15)


@analysed
@pytest.mark.slow
def test_the_network_is_a_drop_in_for_named_addresses_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_install, "_places", lambda prefix: PLACES._replace(root=prefix or tmp_path))
    assert (
        run("install-service", "--prefix", str(tmp_path), "--allow", "localhost", "--allow", "10.0.0.0/8").exit_code
        == 0
    )
    units = tmp_path / "etc/systemd/system"
    assert "IPAddressAllow=localhost 10.0.0.0/8\n" in (units / "delen.service.d/tcp.conf").read_text()
    assert analyse("verify", units / "delen.service").stderr == ""
    assert 0.5 < exposure(units / "delen.service") <= 1.3


@analysed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "most"),
    [
        ('meter = "rapl"\n', 0.5),
        ('meter = "none"\npolicy = "clock"\nclocks = "may-set"\n', 0.5),
        ('meter = "jtop"\n', 0.6),
        ('meter = "nvml"\n', 0.9),
        ('meter = "mqtt://192.0.2.7/plug"\n', 1.3),
    ],
)
def test_what_meter_and_clock_need_is_a_drop_in_that_systemd_reads_without_a_word(
    installed: Path, tmp_path: Path, config: str, most: float
) -> None:
    system = jetson_tree(tmp_path / "system")
    for name, said in (("name", "package-0"), ("max_energy_range_uj", "1000"), ("energy_uj", "1")):
        put(system, f"sys/class/powercap/intel-rapl:0/{name}", said)
    for name in ("dev/nvidia0", "dev/nvidiactl", "run/jtop.sock"):
        put(system, name, "")
    (installed / "etc/delen/delen.toml").write_text(config)
    path, faults = command_doctor_service.write_drop_in(installed, system)
    assert path is not None
    assert not faults
    unit = installed / "etc/systemd/system/delen.service"
    assert analyse("verify", unit).stderr == ""
    assert exposure(unit) <= most


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers: apt-get install systemd")
@pytest.mark.slow
def test_users_and_directories_are_ones_that_systemd_makes(installed: Path) -> None:
    (installed / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (installed / "etc/group").write_text("root:x:0:\n")
    for tool, arguments in (("systemd-sysusers", []), ("systemd-tmpfiles", ["--create", "--dry-run"])):
        if (
            tool == "systemd-tmpfiles"
            and "--dry-run" not in subprocess.run([tool, "--help"], capture_output=True, text=True).stdout
        ):
            continue
        done = subprocess.run([tool, f"--root={installed}", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    if os.getuid() == 0:
        users = (installed / "etc/passwd").read_text()
        assert "delen:x:" in users
        assert "delen-engine:x:" in users
    for line in (installed / "etc/tmpfiles.d/delen.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            kind, path, mode, owner, group, age = line.split()
            assert (kind in "dz", path.startswith("/"), int(mode, 8) & 0o002, age) == (True, True, 0, "-"), line
            assert {owner, group} <= {"root", "delen", "delen-engine"}, line


def test_the_service_waits_longer_for_the_end_than_the_daemon_for_its_requests() -> None:
    unit = filled("delen.service", PLACES)
    seconds = int(re.findall(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)[0])
    # The second after the last answer: what was handed to ZeroMQ leaves. Another for the engine.
    assert Limits().drain_ms_max + 2_000 < seconds * 1000


def test_exit_codes_that_no_restart_mends_are_those_that_are_not_restarted() -> None:
    lasting = {
        *(ExitCode.USAGE, ExitCode.BAD_DATA, ExitCode.NO_INPUT),
        *(ExitCode.ALREADY_RUNNING, ExitCode.PERMISSION, ExitCode.BAD_CONFIG),
    }
    for name in ("delen.service", "delen-user.service"):
        (codes,) = re.findall(r"^RestartPreventExitStatus=(.*)$", filled(name, PLACES), re.MULTILINE)
        assert {int(code) for code in codes.split()} == {int(code) for code in lasting}, name


def test_the_first_configuration_is_one_the_daemon_takes(installed: Path) -> None:
    config = installed / "etc/delen/delen.toml"
    loaded = load_config(config, {"tenants": [{"name": "a"}]}, {}, 0)
    assert loaded.networks == ("digits", "fashion")


# ---- install, uninstall


def test_paths_of_the_installation_are_filled_in_as_systemd_quotes_them() -> None:
    odd = PLACES._replace(python=Path("/opt/with space/50%/python"), delen=Path("/opt/$x/delen"))
    assert '\nExecStart="/opt/with space/50%%/python" -m delen.daemon.worker' in filled("delen-engine@.service", odd)
    assert "\nExecStart=/opt/$$x/delen serve" in filled("delen.service", odd)
    for name in ("delen.service", "delen-engine@.service", "delen-user.service", "delen.tmpfiles.conf"):
        assert not re.search(r"@[a-z]+@", filled(name, PLACES)), f"{name} has a mark that nothing fills"


def test_installed_again_changes_nothing_and_what_is_not_ours_is_not_touched(installed: Path) -> None:
    unit = installed / "etc/systemd/system/delen.service"
    config = installed / "etc/delen/delen.toml"
    config.write_text("threads = 2\n")
    before = unit.read_text()
    again = run("install-service", "--prefix", str(installed))
    assert again.exit_code == 0
    assert "wrote" not in again.output
    assert config.read_text() == "threads = 2\n", "a configuration is its operator's"
    unit.write_text(f"{OURS}`, an older one\n")
    assert "replaced" in run("install-service", "--prefix", str(installed)).output
    assert unit.read_text() == before
    unit.write_text("[Service]\nExecStart=/usr/bin/mine\n")
    (installed / "etc/sysusers.d/delen.conf").unlink()
    refused = run("install-service", "--prefix", str(installed))
    assert refused.exit_code == ExitCode.CANNOT_CREATE
    assert str(unit) in refused.output
    assert not (installed / "etc/sysusers.d/delen.conf").exists(), "all or nothing"


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_install, "_places", lambda prefix: PLACES._replace(root=prefix or tmp_path))
    done = run("install-service", "--prefix", str(tmp_path), "--dry-run")
    assert "would write" in done.output
    assert not list(tmp_path.iterdir())


def test_uninstalled_leaves_what_is_the_operator_s(installed: Path) -> None:
    own = installed / "etc/systemd/system/delen.service.d/mine.conf"
    run("install-service", "--prefix", str(installed), "--allow", "10.0.0.1")
    own.write_text("[Service]\nNice=1\n")
    done = run("uninstall-service", "--prefix", str(installed))
    assert done.exit_code == 0
    left = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert left == {"etc/delen/delen.toml", "etc/systemd/system/delen.service.d/mine.conf"}
    assert "nothing of delen's is installed there" in run("uninstall-service", "--prefix", str(installed)).output


def test_one_user_s_service_is_one_file(tmp_path: Path) -> None:
    assert run("install-service", "--user", "--prefix", str(tmp_path)).exit_code == 0
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path == tmp_path / "config/systemd/user/delen.service"
    assert run("uninstall-service", "--user", "--prefix", str(tmp_path)).exit_code == 0
    assert not path.exists()


@pytest.mark.parametrize(("above", "why"), [(HIDDEN[0], "ProtectHome"), (PRIVATE[1], "PrivateTmp")])
def test_an_installation_that_the_service_could_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: Path, why: str
) -> None:
    hidden = PLACES._replace(python=above / "me/venv/bin/python", root=tmp_path)
    monkeypatch.setattr(command_install, "_places", lambda _prefix: hidden)
    refused = run("install-service", "--prefix", str(tmp_path))
    assert refused.exit_code == ExitCode.UNAVAILABLE
    assert why in refused.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("said", ["10.0.0.0/33", "host.example", "10.0.0.1 any", "any\nExecStartPre=/bin/true", ""])
def test_what_is_no_address_is_not_written_into_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr(command_install, "_places", lambda prefix: PLACES._replace(root=prefix or tmp_path))
    refused = run("install-service", "--prefix", str(tmp_path), "--allow", "::1", "--allow", said)
    assert refused.exit_code == ExitCode.USAGE
    assert "expected an address" in refused.output
    assert not list(tmp_path.iterdir())


# ---- devices


def test_the_engine_may_open_the_nodes_that_are_here_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "dev"
    (devices / "dri").mkdir(parents=True)
    # Links to a character device that is everywhere stand for the nodes; a file by such a name is none.
    for name in ("nvmap", "nvhost-gpu", "dri/renderD128", "video0"):
        (devices / name).symlink_to("/dev/null")
    (devices / "nvhost-dbg").write_text("")
    (devices / "nvhost-gone").symlink_to(tmp_path / "nowhere")
    path, nodes = device_nodes.write_drop_in(tmp_path, devices)
    assert path == tmp_path / "etc/systemd/system/delen-engine@.service.d/devices.conf"
    assert [Path(node.path).name for node in nodes] == ["renderD128", "nvhost-gpu", "nvmap"]
    assert path.read_text().splitlines()[2:] == [
        "[Service]",
        "DeviceAllow=",
        *(f"DeviceAllow={devices}/{name} rw" for name in ("dri/renderD128", "nvhost-gpu", "nvmap")),
    ]
    monkeypatch.setattr(device_nodes, "device_nodes", lambda _devices: nodes)
    monkeypatch.setattr(command_doctor_service, "opened", lambda *_: Opened([], []))
    assert run("doctor", "--devices", "--prefix", str(tmp_path)).exit_code == 0
    path.write_text("[Service]\nDeviceAllow=/dev/mine rw\n")
    assert run("doctor", "--devices", "--prefix", str(tmp_path)).exit_code == ExitCode.CANNOT_CREATE


def test_without_a_gpu_there_is_nothing_to_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_nodes, "device_nodes", lambda _devices: [])
    monkeypatch.setattr(command_doctor_service, "opened", lambda *_: Opened([], []))
    assert "no GPU here" in run("doctor", "--devices", "--prefix", str(tmp_path)).output
    assert not list(tmp_path.iterdir())


def test_the_engine_s_groups_are_those_of_this_machine() -> None:
    assert "SupplementaryGroups" not in filled("delen-engine@.service", PLACES)
    assert "\nSupplementaryGroups=video\n" in filled("delen-engine@.service", PLACES._replace(groups=("video",)))
    assert {file.path.name for file in system_files(PLACES)} == {"delen.service", "delen-engine@.service", "delen.conf"}
    assert service_files.TEMPLATES.is_dir()
