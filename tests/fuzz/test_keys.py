"""Keys and the files they lie in: no key is refused by being repeated, and modes and links are looked at."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import zmq

from delen.clients.errors import BadFile
from delen.clients.key_text import KEY_CHARACTERS, fingerprint, key_bytes, key_fault, key_text
from delen.clients.keys import read_key
from delen.daemon.config import load_config
from delen.daemon.server_key import read_secret
from delen.daemon.tenant_files import read_tenants
from delen.daemon.toml_file import ConfigError
from delen.tests.faults.counts import count, randomness
from delen.tests.fuzz.file_readers import PUBLIC, READERS, SECRET

pytestmark = [pytest.mark.faults]

Z85 = string.digits + string.ascii_letters + ".-:+=^!/*?&<>()[]{}@%$#"
WRONG: Mapping[str, str] = {
    **{f"{size} characters": (PUBLIC * 3)[:size] for size in (0, 1, 5, 35, 39, 41, 45, 80, 120)},
    **{
        f"{mark!r} in it": PUBLIC[:20] + mark + PUBLIC[21:]
        for mark in (" ", "\n", "\r", "\0", "\t", '"', "'", ",", ";", "_")
    },
    **{
        f"{mark!r} in it": PUBLIC[:20] + mark + PUBLIC[21:]
        for mark in ("\\", "|", "~", "`", "é", "\u0661", "\u202e", "\udc80")
    },
    "a group too large at its start": "#####" + PUBLIC[5:],
    "a group too large at its end": PUBLIC[:35] + "%nSc1",
    "all as large as can be": "#" * 40,
    "a line end behind it": PUBLIC + "\n",
    "spaces about it": f" {PUBLIC} ",
    "base64": "SGVsbG8gd29ybGQhIEhlbGxvIHdvcmxkISEhISEhISE=",
    "hex": "0123456789abcdef" * 4,
    "a certificate": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "an ssh key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_no_key_is_refused_wherever_it_stands(text: str, tmp_path: Path) -> None:
    fault = key_fault(text)
    assert fault
    assert not text or text not in fault
    quoted = text.encode("unicode_escape", "surrogatepass").decode().replace('"', '\\"').replace("\\x", "\\u00")
    for name, kind in (("key", BadFile), ("secret", ConfigError)):
        for field in ("public_key", "secret_key", "server_key"):
            good = READERS[name].good(tmp_path).decode()
            lines = [f'{field} = "{quoted}"' if line.startswith(field) else line for line in good.splitlines()]
            if name == "secret" and field != "secret_key":
                continue
            with pytest.raises(kind) as caught:
                READERS[name].read("\n".join(lines).encode(), tmp_path)
            assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError):
        READERS["tenant"].read(f'[[keys]]\npublic = "{quoted}"\n'.encode(), tmp_path)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def opened(mode: int, path: Path) -> None:
    path.chmod(mode)


def written(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


PLACES: Mapping[str, Callable[[Path], None]] = {
    **{f"mode {mode:o}": partial(opened, mode) for mode in (0o644, 0o604, 0o666, 0o660, 0o777, 0o602)},
    "a pipe": piped,
    "a directory": foldered,
    "not there": Path.unlink,
    "a megabyte": partial(written, READERS["key"].good(Path()) + b"#" * 1_000_000),
    "nothing": partial(written, b""),
}


@pytest.mark.parametrize("spoil", PLACES.values(), ids=PLACES)
def test_a_key_file_that_is_not_its_owner_s_alone_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "server.secret"
    path.write_bytes(READERS["key"].good(tmp_path))
    path.chmod(0o600)
    read_key(path)
    read_secret(path)
    spoil(path)
    with pytest.raises(BadFile):
        read_key(path)
    with pytest.raises(ConfigError):
        read_secret(path)


def test_a_server_s_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.secret"
    path.write_bytes(READERS["key"].good(tmp_path))
    path.chmod(0o600)
    linked(path)
    with pytest.raises(ConfigError):
        read_secret(path)


def test_halves_of_two_pairs_are_no_key(tmp_path: Path) -> None:
    other = zmq.curve_keypair()[0]
    with pytest.raises(BadFile, match="halves"):
        READERS["key"].read(
            READERS["key"].good(tmp_path).replace(f'public_key = "{PUBLIC}'.encode(), b'public_key = "' + other),
            tmp_path,
        )


def test_a_file_that_opens_and_cannot_be_read_is_said_like_any_other() -> None:
    """The process's own memory has such: rights as a key file's, and nothing at its beginning."""
    path = Path("/proc/self/mem")
    with pytest.raises(BadFile, match="cannot read"):
        read_key(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_secret(path)


@pytest.mark.slow
def test_one_key_of_two_tenants_and_ten_thousand_files(tmp_path: Path) -> None:
    directory = tmp_path / "tenants.d"
    directory.mkdir()
    (tmp_path / "delen.toml").write_text("[limits]\ntenants_max = 20000\n")
    for name in ("a", "b"):
        (directory / f"{name}.toml").write_text(f'[[keys]]\npublic = "{PUBLIC}"\n')
    with pytest.raises(ConfigError, match="already"):
        load_config(tmp_path / "delen.toml", {}, {}, 0)
    for number in range(9_998):
        (directory / f"t{number}.toml").write_text("uids = [1]\n")
    assert len(read_tenants(directory)) == 10_000
    (directory / "more.toml").write_text("")
    with pytest.raises(ConfigError, match="at most"):
        read_tenants(directory)


@pytest.mark.slow
def test_a_key_is_one_exactly_where_the_library_takes_it() -> None:
    """Against libzmq's own reader of Z85, which is asked only for what it knows to refuse."""
    draw = randomness("keys")
    for _ in range(count("P10 examples of each property") // 10):
        raw = draw.randbytes(32)
        text = key_text(raw)
        assert (key_fault(text), key_bytes(text), len(text)) == (None, raw, KEY_CHARACTERS)
        assert zmq.curve_public(text.encode()) if key_fault(text) is None else True
        assert fingerprint(text).startswith("SHA256:")
        place = draw.randrange(KEY_CHARACTERS)
        changed = text[:place] + draw.choice(Z85 + " \n'\"") + text[place + 1 :]
        large = any(_word(changed[start : start + 5]) >= 2**32 for start in range(0, KEY_CHARACTERS, 5))
        assert (key_fault(changed) is None) == (not large and not set(changed) - set(Z85))


def _word(group: str) -> int:
    value = 0
    for mark in group:
        value = value * 85 + max(0, Z85.find(mark))
    return value
