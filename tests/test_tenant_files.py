"""`tenants.d`: believed only where nobody else could have written it, and faults name file and line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from delen.clients.key_text import key_text
from delen.daemon.config import load_config
from delen.daemon.rights import PublicKey
from delen.daemon.tenant_files import TENANT_BYTES_MAX, read_tenant, read_tenants
from delen.daemon.toml_file import ConfigError

FIRST = key_text(bytes([1]) * 32)


def write(folder: Path, name: str, text: str | bytes, mode: int = 0o644) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def fault(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_tenant(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_is_a_tenant_named_after_it(tmp_path: Path) -> None:
    text = f"""
# Cameras at the gate.
uids = [1001, 1002]
networks = ["digits"]
rate_hz_max = 20.0
burst_max = 5
energy_j_day_max = 900
tcp_port = 5701

[deepest_exit]
digits = 1

[[keys]]
public = "{FIRST}"
not_after = 2027-01-01T00:00:00Z
"""
    tenant = read_tenant(write(tmp_path, "gate.toml", text))
    assert tenant.name == "gate"
    assert tenant.uids == (1001, 1002)
    assert tenant.networks == ("digits",)
    assert tenant.deepest_exit == {"digits": 1}
    assert (tenant.rate_hz_max, tenant.burst_max, tenant.energy_j_day_max) == (20.0, 5, 900.0)
    (key,) = tenant.keys
    assert isinstance(key, PublicKey)
    assert key.not_after is not None
    assert key.not_after.year == 2027


def test_an_empty_file_grants_nothing(tmp_path: Path) -> None:
    tenant = read_tenant(write(tmp_path, "a.toml", ""))
    assert (tenant.uids, tenant.keys, tenant.networks) == ((), (), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uids = [1]\nuid = 2\n", ":2: Object contains unknown field `uid`"),
        ("networks = []\nuids = 1001\n", ":2: "),
        ("\n\nuids = [-1]\n", ":3: uids has -1"),
        ('[[keys]]\npublic = "short"\n', ":1: keys[0]: a key has 40 characters"),
        ('[[keys]]\nsecret = "x"\n', "secret"),
        (f'[[keys]]\npublic = "{FIRST}"\nnot_after = 2027-01-01T00:00:00\n', "time zone"),
        ('name = "other"\n', ":1: name is not for tenant files"),
        ("rate_hz_max = -1\n", ":1: rate_hz_max is -1"),
        ("power_w_max = nan\n", ":1: power_w_max"),
        ("uids = = 1\n", "line 1"),
        ("a = " + "[" * 5000, "not TOML"),
        (b"\xff\xfe", "UTF-8"),
        (b"#" * (TENANT_BYTES_MAX + 1), "bytes"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in fault(write(tmp_path, "a.toml", text))


@pytest.mark.parametrize("name", ["..toml", "a b.toml", "-" * 65 + ".toml", "a\n.toml", "ä.toml"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    assert "not a name" in fault(write(tmp_path, name, ""))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    said = fault(write(tmp_path, "a.toml", "uids = [0]\n", mode))
    assert "chmod go-w" in said


def test_links_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    elsewhere = write(tmp_path, "elsewhere", "uids = [0]\n")
    (tmp_path / "link.toml").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "pipe.toml", 0o600)
    (tmp_path / "folder.toml").mkdir()
    assert "link" in fault(tmp_path / "link.toml")
    assert "regular file" in fault(tmp_path / "pipe.toml")
    fault(tmp_path / "folder.toml")


def test_a_directory_others_can_write_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "tenants.d"
    folder.mkdir(mode=0o755)
    write(folder, "a.toml", "")
    write(folder, ".a.toml.swp", "half written")
    assert [tenant.name for tenant in read_tenants(folder)] == ["a"]
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        read_tenants(folder)


def test_a_misspelt_name_is_heard_of(tmp_path: Path) -> None:
    write(tmp_path, "a.tml", "")
    with pytest.raises(ConfigError, match=r"a\.tml.*NAME\.toml"):
        read_tenants(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.toml", "uids = [1001]\n")
    os.chown(path, 1001, 1001)
    assert "belongs to uid 1001" in fault(path)


def test_tenants_beside_the_configuration_join_those_in_it(tmp_path: Path) -> None:
    config = write(tmp_path, "delen.toml", '[[tenants]]\nname = "a"\nuids = [1]\n')
    (tmp_path / "tenants.d").mkdir(mode=0o755)
    write(tmp_path / "tenants.d", "b.toml", "uids = [2]\nnetworks = ['digits']\n")
    assert [tenant.name for tenant in load_config(config, {}, {}, uid=1).tenants] == ["a", "b"]
    flags = {"tenants": [{"name": "c"}]}
    assert [tenant.name for tenant in load_config(config, flags, {}, uid=1).tenants] == ["c"], "flags win over files"
    write(tmp_path / "tenants.d", "a.toml", "uids = [3]\n")
    with pytest.raises(ConfigError, match="'a' is named twice"):
        load_config(config, {}, {}, uid=1)


def test_a_directory_that_is_named_must_be_there(tmp_path: Path) -> None:
    config = write(tmp_path, "delen.toml", 'tenants_dir = "who"\n[[tenants]]\nname = "a"\n')
    with pytest.raises(ConfigError, match="who"):
        load_config(config, {}, {}, uid=1)


def test_the_same_key_in_two_files_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path, "delen.toml", "")
    (tmp_path / "tenants.d").mkdir(mode=0o755)
    for name in ("a", "b"):
        write(tmp_path / "tenants.d", f"{name}.toml", f'[[keys]]\npublic = "{FIRST}"\n')
    with pytest.raises(ConfigError, match="'a''s already"):
        load_config(config, {}, {}, uid=1)


def test_every_byte_flipped_and_every_length_is_read_or_refused(tmp_path: Path) -> None:
    text = f'uids = [1001]\nnetworks = ["digits"]\n[[keys]]\npublic = "{FIRST}"\n'.encode()
    path = tmp_path / "a.toml"
    for place in range(len(text)):
        for damaged in (text[:place], text[:place] + bytes([text[place] ^ 0x04]) + text[place + 1 :]):
            write(tmp_path, "a.toml", damaged)
            with contextlib.suppress(ConfigError):
                assert read_tenant(path).name == "a"
