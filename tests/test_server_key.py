"""The daemon's secret: read only where nobody else can, from where it was said or handed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq

from delen.daemon.config import load_config
from delen.daemon.server_key import read_secret, secret_path
from delen.daemon.toml_file import ConfigError

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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_one_of_another_group_or_user_is_not(tmp_path: Path) -> None:
    path = written(tmp_path, f'secret_key = "{SECRET}"\n', 0o640)
    os.chown(path, 0, 4711)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path)
    os.chown(path, 4711, 0)
    with pytest.raises(ConfigError, match="belongs to uid 4711"):
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
