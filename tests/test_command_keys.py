"""`delen keys`: what it writes is what the daemon reads, secrets go to one file each, and nothing is overwritten."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from delen.clients import config_folder
from delen.clients.cli import delen
from delen.clients.key_text import fingerprint
from delen.clients.keys import read_key
from delen.daemon.server_key import read_secret
from delen.daemon.tenant_files import read_tenant, read_tenants


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELEN_CONFIG", str(tmp_path / "etc" / "delen.toml"))
    return tmp_path / "etc"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(delen, ["keys", *arguments])


def done(*arguments: str) -> dict[str, Any]:
    """Run one that must work; what it says as JSON."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def refused(code: int, *arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return result.stderr


def new(name: str, *arguments: str) -> dict[str, Any]:
    return done("new", name, "--network", "digits", *arguments)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_daemons_key_is_made_once(folder: Path) -> None:
    said = done("init")
    path = folder / "keys" / "server.secret"
    assert (mode(path), mode(path.parent)) == (0o600, 0o750)
    assert read_secret(path).decode() == read_key(path).pair.secret
    assert said["fingerprint"] == fingerprint(read_key(path).pair.public)
    before = path.read_bytes()
    assert "move it away" in refused(73, "init")
    assert path.read_bytes() == before


def test_a_local_tenant_needs_no_key(folder: Path) -> None:
    caps = ("--rate", "20", "--burst", "5", "--watts", "2.5", "--joules-per-day", "900", "--connections-max", "3")
    said = new("cam", "--uid", "1001", "--uid", "root", *caps)
    assert said["key_file"] is None
    tenant = read_tenant(folder / "tenants.d" / "cam.toml")
    assert (tenant.uids, tenant.networks, tenant.keys) == ((1001, 0), ("digits",), ())
    assert (tenant.rate_hz_max, tenant.burst_max, tenant.connections_max) == (20.0, 5, 3)
    assert (tenant.power_w_max, tenant.energy_j_day_max) == (2.5, 900.0)
    assert mode(folder / "tenants.d") == 0o750


def test_a_tenant_over_tcp_gets_one_file_with_all_it_needs(folder: Path) -> None:
    done("init")
    said = new("acme", "--tcp", "192.0.2.1")
    key = read_key(Path("acme.key"))
    assert mode(Path("acme.key")) == 0o600
    assert (key.tenant, key.endpoint) == ("acme", "tcp://192.0.2.1:5701")
    assert key.server_key == read_key(folder / "keys" / "server.secret").pair.public
    (known,) = read_tenant(folder / "tenants.d" / "acme.toml").keys
    assert known.public == key.pair.public
    assert said["fingerprint"] == fingerprint(key.pair.public)
    new("other", "--tcp", "192.0.2.1")
    assert read_tenant(folder / "tenants.d" / "other.toml").tcp_port == 5702


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to a group")
def test_the_service_can_read_what_root_makes_for_it_whichever_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_folder, "SYSTEM_DIRECTORY", folder)
    monkeypatch.setattr(config_folder, "SERVICE_GROUP", grp.getgrgid(1).gr_name)
    done("init")
    secret = folder / "keys" / "server.secret"
    new("acme", "--tcp", "h")
    for path, expected in ((folder / "keys", 0o750), (secret, 0o640), (folder / "tenants.d", 0o750)):
        assert (mode(path), path.stat().st_gid) == (expected, 1), path
    # As a boot leaves it (tmpfiles.d), whoever made it: then no key could be made any more.
    os.chown(secret, 0, os.getgid())
    done("rotate", "acme", "--out", "acme2.key")
    assert read_secret(secret)


def test_two_commands_at_once_do_not_undo_each_other(folder: Path) -> None:
    done("init")
    new("acme", "--tcp", "h")
    handle = os.open(folder / "tenants.d", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    command = [sys.executable, "-m", "delen", "keys", "revoke", "acme"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as revoking:
        # It waits for the writer that holds the lock, and then sees what that one wrote.
        with pytest.raises(subprocess.TimeoutExpired):
            revoking.wait(1.0)
        path = folder / "tenants.d" / "acme.toml"
        path.write_text(path.read_text().replace("first key", "by another"))
        os.close(handle)
        assert revoking.wait(30.0) == 0
    assert read_tenant(path).keys == ()


def test_secrets_are_said_nowhere(folder: Path) -> None:
    said = [run("init"), run("new", "acme", "--network", "digits", "--tcp", "h"), run("show", "acme"), run("list")]
    said.append(run("rotate", "acme", "--out", "acme2.key"))
    secrets = [read_key(path).pair.secret for path in (Path("acme.key"), Path("acme2.key"))]
    secrets.append(read_key(folder / "keys" / "server.secret").pair.secret)
    written = [path.read_text() for path in (folder / "tenants.d").iterdir()]
    for text in [*(result.output for result in said), *written]:
        assert not any(secret in text for secret in secrets)


def test_nothing_is_written_that_the_daemon_would_refuse(folder: Path) -> None:
    done("init")
    new("acme", "--tcp", "h", "--port", "6000")
    assert "tcp_port 6000" in refused(78, "new", "b", "--network", "digits", "--tcp", "h", "--port", "6000")
    assert "is there already" in refused(73, "new", "acme", "--network", "digits", "--uid", "5")
    assert "not a name" in refused(2, "new", "../up", "--network", "digits", "--uid", "5")
    assert "nobody could ask" in refused(2, "new", "c", "--network", "digits")
    refused(2, "new", "c", "--uid", "5")
    assert "no user" in refused(2, "new", "c", "--network", "digits", "--uid", "no-such-user")
    assert [tenant.name for tenant in read_tenants(folder / "tenants.d")] == ["acme"]
    assert not Path("b.key").exists()


@pytest.mark.parametrize("host", ["h:5701", "tcp://h", "::1", 'h"\ntenant = "b', "", "a b"])
def test_a_host_goes_into_a_key_file_only_if_it_is_one(folder: Path, host: str) -> None:
    done("init")
    assert "is no host" in refused(2, "new", "acme", "--network", "digits", "--tcp", host)
    assert not (folder / "tenants.d").exists()


def test_a_rotated_key_says_whether_it_knows_where_to_ask(folder: Path) -> None:
    done("init")
    new("acme", "--tcp", "[fe80::1%eth0]")
    assert "--endpoint tcp://HOST:5701" in run("rotate", "acme", "--out", "2.key").output
    assert "--endpoint" not in run("rotate", "acme", "--out", "3.key", "--tcp", "h.example").output
    assert read_key(Path("3.key")).endpoint == "tcp://h.example:5701"


def test_a_key_file_in_the_way_stops_before_the_tenant_is_made(folder: Path) -> None:
    done("init")
    Path("acme.key").write_text("precious")
    assert "--out" in refused(73, "new", "acme", "--network", "digits", "--tcp", "h")
    assert Path("acme.key").read_text() == "precious"
    assert not (folder / "tenants.d" / "acme.toml").exists()


def test_tcp_needs_the_daemons_key_first() -> None:
    assert "delen keys init" in refused(66, "new", "acme", "--network", "digits", "--tcp", "h")


def test_a_rotated_key_ends_after_the_overlap(folder: Path) -> None:
    done("init")
    new("acme", "--tcp", "h")
    done("rotate", "acme", "--overlap", "2h", "--out", "new.key")
    old, fresh = read_tenant(folder / "tenants.d" / "acme.toml").keys
    assert old.public == read_key(Path("acme.key")).pair.public
    assert fresh.public == read_key(Path("new.key")).pair.public
    assert old.not_after is not None
    assert fresh.not_after is None
    states = {row["fingerprint"]: row["state"] for row in done("show", "acme")["keys"]}
    assert set(states.values()) == {"valid"}
    done("rotate", "acme", "--overlap", "0", "--out", "third.key")
    states = {row["fingerprint"]: row["state"] for row in done("show", "acme")["keys"]}
    assert states[fingerprint(fresh.public)] == "ended"
    assert list(states.values()).count("valid") == 1
    assert "no time" in refused(2, "rotate", "acme", "--overlap", "soon")


def test_one_key_or_all_are_revoked(folder: Path) -> None:
    done("init")
    new("acme", "--tcp", "h")
    done("rotate", "acme", "--out", "new.key")
    first = fingerprint(read_key(Path("acme.key")).pair.public)
    assert done("revoke", "acme", "--fingerprint", first)["revoked"] == [first]
    (left,) = read_tenant(folder / "tenants.d" / "acme.toml").keys
    assert left.public == read_key(Path("new.key")).pair.public
    assert "no key" in refused(66, "revoke", "acme", "--fingerprint", first)
    done("revoke", "acme")
    assert read_tenant(folder / "tenants.d" / "acme.toml").keys == ()
    assert "no keys" in refused(66, "revoke", "acme")


def test_all_tenants_are_listed_and_a_strange_one_is_not_there(folder: Path) -> None:
    new("b", "--uid", "5")
    new("a", "--uid", "6")
    assert [row["tenant"] for row in done("list")["tenants"]] == ["a", "b"]
    assert "there are: a, b" in refused(66, "show", "c")
    (folder / "tenants.d" / "a.toml").write_text("uids = = 1")
    assert "a.toml" in refused(78, "list")


def test_a_fingerprint_is_of_a_file_or_a_key(folder: Path) -> None:
    done("init")
    path = folder / "keys" / "server.secret"
    public = read_key(path).pair.public
    assert run("fingerprint", str(path)).stdout.strip() == fingerprint(public)
    for what in (public, f"-h{public[2:]}", f"--{public[2:]}"):
        assert run("fingerprint", "--", what).stdout.strip() == fingerprint(what)
    refused(65, "fingerprint", "neither")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_what_cannot_be_written_is_named(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    assert str(folder) in refused(77, "init")
