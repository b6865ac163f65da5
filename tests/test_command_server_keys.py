"""`delen keys rotate-server`: what it writes, that it goes on where it was broken off, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delen.clients.cli import delen
from delen.clients.exit_codes import ExitCode
from delen.clients.keys import public_half
from delen.daemon.server_key import NEXT_NAME, SECRET_NAME, read_secret
from delen.daemon.tenant_files import read_tenants


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(delen, ["keys", *arguments, "--config-dir", str(folder)])


def done(folder: Path, *arguments: str) -> Result:
    result = run(folder, *arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done(tmp_path, "init")
    for name in ("acme", "bolt"):
        done(tmp_path, "new", name, "--network", "digits", "--tcp", "h", "--out", str(tmp_path / f"{name}.key"))
    done(tmp_path, "new", "local", "--network", "digits", "--uid", "1001")
    return tmp_path


def ports(folder: Path) -> dict[str, tuple[int | None, int | None]]:
    return {tenant.name: (tenant.tcp_port, tenant.next_tcp_port) for tenant in read_tenants(folder / "tenants.d")}


def key(folder: Path, name: str = SECRET_NAME) -> str:
    return public_half(read_secret(folder / "keys" / name).decode())


def test_the_next_key_has_a_port_of_its_own_for_each_tenant_over_tcp(folder: Path) -> None:
    before = key(folder)
    said = done(folder, "rotate-server", "--tcp", "192.0.2.1").output
    assert ports(folder) == {"acme": (5701, 5703), "bolt": (5702, 5704), "local": (None, None)}
    assert key(folder) == before != key(folder, NEXT_NAME)
    assert f'endpoint = "tcp://192.0.2.1:5703"\nserver_key = "{key(folder, NEXT_NAME)}"' in said
    assert (folder / "keys" / NEXT_NAME).stat().st_mode & 0o777 == 0o600


def test_it_ends_with_the_next_key_in_the_place_of_the_one_before(folder: Path) -> None:
    done(folder, "rotate-server")
    upcoming = key(folder, NEXT_NAME)
    done(folder, "rotate-server", "--finish")
    assert ports(folder) == {"acme": (5703, None), "bolt": (5704, None), "local": (None, None)}
    assert key(folder) == upcoming
    assert not (folder / "keys" / NEXT_NAME).exists()
    # And round again, to ports that are free now.
    done(folder, "rotate-server")
    assert ports(folder)["acme"] == (5703, 5701)


def test_a_tenant_that_came_meanwhile_must_be_told_first(folder: Path) -> None:
    done(folder, "rotate-server")
    upcoming = key(folder, NEXT_NAME)
    done(folder, "new", "late", "--network", "digits", "--tcp", "h", "--out", str(folder / "late.key"))
    assert ports(folder)["late"] == (5705, None)
    refused = run(folder, "rotate-server", "--finish")
    assert refused.exit_code == ExitCode.BAD_CONFIG
    assert "late" in refused.output
    told = json.loads(done(folder, "rotate-server", "--json").output)
    assert {"tenant": "late", "next_tcp_port": 5706} in told["tenants"]
    assert told["public_key"] == upcoming == key(folder, NEXT_NAME), "the next key is made once"
    done(folder, "rotate-server", "--finish")


def test_what_was_broken_off_before_the_key_was_renamed_is_done_by_another_call(folder: Path) -> None:
    done(folder, "rotate-server")
    upcoming = (folder / "keys" / NEXT_NAME).read_bytes()
    done(folder, "rotate-server", "--finish")
    (folder / "keys" / NEXT_NAME).write_bytes(upcoming)
    (folder / "keys" / NEXT_NAME).chmod(0o600)
    done(folder, "rotate-server", "--finish")
    assert ports(folder)["acme"] == (5703, None)
    assert (folder / "keys" / SECRET_NAME).read_bytes() == upcoming


def test_what_was_not_begun_cannot_be_finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    refused = run(folder, "rotate-server", "--finish")
    assert refused.exit_code == ExitCode.NO_INPUT
    assert "delen keys rotate-server" in refused.output
    assert "delen keys init" in run(tmp_path_factory.mktemp("empty"), "rotate-server").output


def test_comments_and_tables_of_a_tenants_file_stay(folder: Path) -> None:
    path = folder / "tenants.d" / "acme.toml"
    before = path.read_text()
    path.write_text(before.replace("tcp_port = 5701", "tcp_port = 5701  # the camera's") + "# the end\n")
    done(folder, "rotate-server")
    done(folder, "rotate-server", "--finish")
    text = path.read_text()
    assert "tcp_port = 5703" in text
    assert text.endswith("# the end\n")
    assert text.count("[[keys]]") == before.count("[[keys]]") == 1
