"""The daemon's secret: read only where nobody else can, from where it was said or handed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import zmq

from delen.daemon.config import load_config
from delen.daemon.server_key import read_secret, secret_path
from delen.daemon.toml_file import ConfigError

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
NO_ID = 0xFFFFFFFF
SECRET = zmq.curve_keypair()[1].decode()


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "server.secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_private_file_is_read(tmp_path: Path) -> None:
    assert read_secret(written(tmp_path, f'secret_key = "{SECRET}"\n')) == SECRET.encode()
    assert read_secret(written(tmp_path, f'secret_key = "{SECRET}"\n', 0o400)) == SECRET.encode()
    # As tmpfiles.d leaves it: root's, for the daemon's own group to read.
    assert read_secret(written(tmp_path, f'secret_key = "{SECRET}"\n', 0o640)) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606, 0o601])
def test_one_that_others_can_touch_is_not(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(written(tmp_path, f'secret_key = "{SECRET}"\n', mode))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as the daemon's own user does, whose group is 4711."""
    monkeypatch.setattr(os, "getuid", lambda: 4710)
    monkeypatch.setattr(os, "getgid", lambda: 4711)


def given(path: Path, uid: int, gid: int) -> Path:
    os.chown(path, uid, gid)
    return path


@ROOT_ONLY
@pytest.mark.usefixtures("service")
def test_a_group_may_read_what_root_handed_it_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path, f'secret_key = "{SECRET}"\n', 0o640)
    assert read_secret(given(path, 0, 4711)) == SECRET.encode()
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(given(path, 0, 4712))
    # The user's own group may well be everybody's.
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(given(path, 4710, 4711))
    with pytest.raises(ConfigError, match="belongs to uid 4712"):
        read_secret(given(path, 4712, 4711))


def test_root_may_look_at_what_it_handed_to_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    path = written(tmp_path, f'secret_key = "{SECRET}"\n', 0o640)
    if path.stat().st_uid == 0:
        assert read_secret(given(path, 0, 4711)) == SECRET.encode()


@ROOT_ONLY
@pytest.mark.usefixtures("service")
def test_a_credential_handed_over_by_an_access_list_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, f'secret_key = "{SECRET}"\n', 0o400)
    for named, rights_of_group, right in (((4710,), 0, True), ((4710, 4712), 0, False), ((4710,), 4, False)):
        entries = [(1, 4, NO_ID), *((2, 4, uid) for uid in named), (4, rights_of_group, NO_ID)]
        entries += [(16, 4, NO_ID), (32, 0, NO_ID)]
        packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
        except OSError:
            pytest.skip("this file system keeps no access lists")
        if right:
            assert read_secret(path) == SECRET.encode()
            continue
        with pytest.raises(ConfigError, match="chmod 600"):
            read_secret(path)


@pytest.mark.parametrize("text", ["", "secret_key = 5", 'secret_key = "short"', 'public_key = "x"', "no = = toml"])
def test_what_is_no_key_file_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secret(written(tmp_path, text))
    assert "short" not in str(caught.value)


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path, f'secret_key = "{SECRET}"\n'))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "absent"):
        with pytest.raises(ConfigError, match="delen keys init"):
            read_secret(tmp_path / name)


def test_it_is_where_it_was_said_or_handed_or_beside_the_configuration(tmp_path: Path) -> None:
    handed = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    etc = Path("/etc/delen")
    assert secret_path("k", etc, handed) == etc / "k"
    assert secret_path("/abs/k", etc, handed) == Path("/abs/k")
    assert secret_path("", etc, handed) == etc / "keys" / "server.secret"
    written(tmp_path, "")
    assert secret_path("", etc, handed) == tmp_path / "server.secret"


def test_tcp_without_a_key_stops_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "delen.toml"
    config.write_text('tcp = "tcp://127.0.0.1"\n[[tenants]]\nname = "a"\n')
    with pytest.raises(ConfigError, match="delen keys init"):
        load_config(config, {}, {}, uid=1)
    for wrong in ("127.0.0.1", "tcp://127.0.0.1:5", "ipc:///x", "tcp://", "tcp://a b"):
        config.write_text(f'tcp = "{wrong}"\n[[tenants]]\nname = "a"\n')
        with pytest.raises(ConfigError, match="tcp://HOST"):
            load_config(config, {}, {}, uid=1)
