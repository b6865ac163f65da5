"""Key files: pairs for CURVE, written once for their owner alone, and read by who connects over tcp.

Role: a new pair; the file that a tenant is handed, with all a client needs; and reading it with care. A secret is
never overwritten, printed or part of an error. Flow: `delen keys` -> `write_secret` -> handed over -> `read_key`.

Does not: know tenants' files on the daemon's side (tenant_text.py), or connect.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from .durable import create_whole, read_bounded
from .errors import BadFile
from .key_text import key_fault

KEY_FILE_BYTES_MAX = 16 * 1024
PRIVATE_MODE = 0o600
SERVERS_MAX = 8


class Pair(NamedTuple):
    """Both halves, Z85. Shown without the secret one, so that it gets into no log."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"Pair({self.public!r}, secret)"


class Server(NamedTuple):
    """One more place to ask, and the key by which the daemon is known there."""

    endpoint: str
    server_key: str


class KeyFile(NamedTuple):
    """What a tenant was handed: who it is, where to ask, whom to believe, and its own pair.

    `servers`: where else to ask, in this order, when nobody answers there: while the daemon changes its key.
    """

    tenant: str | None
    endpoint: str | None
    server_key: str | None
    pair: Pair
    servers: tuple[Server, ...] = ()


def new_pair() -> Pair:
    """From the system's randomness."""
    import zmq

    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret.decode())


def key_text_of(key: KeyFile) -> str:
    """The file's text."""
    head = "# A secret key of delen's. Who has this file may ask as its tenant: keep it, and hand it over safely.\n"
    said = {"tenant": key.tenant, "endpoint": key.endpoint, "server_key": key.server_key}
    lines = [f'{name} = "{value}"\n' for name, value in said.items() if value is not None]
    return head + "".join(lines) + f'public_key = "{key.pair.public}"\nsecret_key = "{key.pair.secret}"\n'


def write_secret(path: Path, text: str) -> None:
    """A new file for its owner alone. Raises FileExistsError, OSError; what is there is never touched."""
    create_whole(path, text.encode(), mode=PRIVATE_MODE)


def read_key(path: Path) -> KeyFile:
    """A key file that only its owner can read.

    Raises:
        BadFile: it is none, or others can read it; the text never repeats what is in it.
    """
    said = _read(path)
    for name in ("public_key", "secret_key", "server_key"):
        value = said.get(name)
        if value is None and name == "server_key":
            continue
        fault = key_fault(value) if isinstance(value, str) else "it is missing, or no text"
        if fault:
            raise BadFile(f"{path}: {name}: {fault}")
    for name in ("tenant", "endpoint"):
        if not isinstance(said.get(name), str | None):
            raise BadFile(f"{path}: {name} is no text")
    pair = Pair(said["public_key"], said["secret_key"])
    if public_half(pair.secret) != pair.public:
        raise BadFile(f"{path}: public_key and secret_key are not halves of one pair")
    servers = _servers(said.get("servers", []), path)
    return KeyFile(said.get("tenant"), said.get("endpoint"), said.get("server_key"), pair, servers)


def _servers(said: object, path: Path) -> tuple[Server, ...]:
    """What the file's `[[servers]]` say. Raises BadFile."""
    if not isinstance(said, list) or len(said) > SERVERS_MAX:
        raise BadFile(f"{path}: servers: expected at most {SERVERS_MAX} tables [[servers]]")
    found = []
    for each in said:
        if not isinstance(each, dict) or set(each) != {"endpoint", "server_key"}:
            raise BadFile(f"{path}: servers: each has an endpoint and a server_key, and nothing else")
        endpoint, key = each["endpoint"], each["server_key"]
        fault = key_fault(key) if isinstance(key, str) else "it is no text"
        if fault:
            raise BadFile(f"{path}: servers: server_key: {fault}")
        if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
            raise BadFile(f"{path}: servers: endpoint: expected tcp://HOST:PORT")
        found.append(Server(endpoint, key))
    return tuple(found)


def public_half(secret: str) -> str:
    """The key that everybody may know, of one that has no fault."""
    import zmq

    return zmq.curve_public(secret.encode()).decode()


def _read(path: Path) -> dict[str, Any]:
    """The file's keys and values, once it is sure that it is a private one."""

    def check(found: os.stat_result, _: int) -> None:
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadFile(f"{path} can be read or written by others; chmod 600 {path}, and have the key renewed")

    try:
        raw = read_bounded(path, KEY_FILE_BYTES_MAX, check, follow=True)
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from error
    return _parsed(raw, path)


def _parsed(raw: bytes, path: Path) -> dict[str, Any]:
    from .toml_text import TomlFault, parse_toml_text

    try:
        return parse_toml_text(raw)
    except TomlFault:
        # Not the parser's own words: they may quote the file.
        raise BadFile(f'{path} is no key file: expected lines of NAME = "VALUE"') from None
