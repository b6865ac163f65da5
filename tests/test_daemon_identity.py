"""A real daemon that is not in development mode: who is let in, who is not, and what is taken away while it runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from click.testing import CliRunner

from delen.clients.cli import delen
from delen.clients.client import Client
from delen.clients.errors import BadRequest, BoundsInfeasible, QueueFull, Refused, Unreachable
from delen.clients.private_daemon import PrivateDaemon
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Plain

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
X = np.zeros((1, 8, 8), np.float32)


def keys(*arguments: str) -> None:
    done = CliRunner().invoke(delen, ["keys", *arguments])
    assert done.exit_code == 0, done.output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Operated:
    """A daemon with a configuration directory, and its operator."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, {name: free_port() for name in ("far", "near")}
        where = ("--config-dir", str(folder))
        keys("init", *where)
        for name, port in self.ports.items():
            arguments = ("--tcp", "127.0.0.1", "--port", str(port), "--out", str(folder / f"{name}.key"))
            keys("new", name, "--network", "digits", *arguments, *where)
        keys("new", "local", "--uid", str(os.getuid()), "--network", "digits", *where)
        keys("new", "other", "--uid", str(os.getuid() + 1), "--network", "digits", *where)
        self.config = folder / "delen.toml"
        self.config.write_text(f'tcp = "tcp://127.0.0.1"\n{SETTINGS}')
        self.daemon = PrivateDaemon(
            (), ("digits",), arguments=("--config", str(self.config)), state_dir=folder / "state", dev=False
        )

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def file(self, name: str) -> Path:
        return self.folder / "tenants.d" / f"{name}.toml"

    def client(self, name: str, timeout_s: float = WAIT_S_MAX) -> Client:
        return Client(key_file=self.key(name), timeout_s=timeout_s)

    def local(self, timeout_s: float = WAIT_S_MAX) -> Client:
        return Client("local", endpoint=self.daemon.endpoint("local"), timeout_s=timeout_s)

    def reload(self) -> None:
        """As the service manager does it; returns once it is in force, or was refused."""
        before = self.daemon.log().count("reloaded")
        os.kill(self.daemon.pid, signal.SIGHUP)
        with self.local() as client:
            while self.daemon.log().count("reloaded") == before:
                client.ping()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    made = Operated(tmp_path_factory.mktemp("operated"))
    with made.daemon:
        yield made


def test_who_is_named_is_served_and_told_who_they_are(operated: Operated) -> None:
    with operated.local() as client:
        assert client.session().tenant == "local"
        assert client.infer("digits", X).label is not None
    with operated.client("far") as client:
        assert client.session().tenant == "far"
        assert client.infer("digits", X).label is not None


def test_a_uid_that_is_not_named_is_not_let_in(operated: Operated) -> None:
    # This user may be root, whom no file mode stops: it is the handshake that does.
    with (
        Client("other", endpoint=operated.daemon.endpoint("other"), timeout_s=0.5) as client,
        pytest.raises(Unreachable),
    ):
        client.ping()


def curve(port: int, server: str, pair: tuple[bytes, bytes] | None) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger, made.rcvtimeo = 0, 500
        if pair is not None:
            made.curve_serverkey = server.encode()
            made.curve_publickey, made.curve_secretkey = pair
        made.connect(f"tcp://127.0.0.1:{port}")
        yield made


@pytest.mark.parametrize(
    "kind", ["no key", "a key nobody knows", "another tenant's key", "another server", "a password"]
)
def test_nothing_of_a_stranger_reaches_the_core(operated: Operated, kind: str) -> None:
    from delen.clients.keys import read_key
    from delen.clients.wire import VERSION, Ping, encode

    far, near = read_key(operated.key("far")), read_key(operated.key("near"))
    assert far.server_key is not None
    pair: tuple[bytes, bytes] | None = zmq.curve_keypair()
    server = far.server_key
    if kind == "another tenant's key":
        pair = near.pair.public.encode(), near.pair.secret.encode()
    elif kind == "another server":
        pair, server = (far.pair.public.encode(), far.pair.secret.encode()), zmq.curve_keypair()[0].decode()
    elif kind in ("no key", "a password"):
        pair = None
    for made in curve(operated.ports["far"], server, pair):
        if kind == "a password":
            made.disconnect(f"tcp://127.0.0.1:{operated.ports['far']}")
            made.plain_username, made.plain_password = b"far", b"guess"
            made.connect(f"tcp://127.0.0.1:{operated.ports['far']}")
        for _ in range(20):
            made.send_multipart(encode(Ping(VERSION, b"\1")))
        with pytest.raises(zmq.Again):
            made.recv()
    with operated.client("far") as client:
        client.ping()
        (row,) = [row for row in client.stats().tenants if row.tenant == "far"]
        assert row.refused == 0, "a message was read, if only to be refused"


def test_tcp_without_a_key_is_refused_by_the_client_itself(operated: Operated) -> None:
    with pytest.raises(BadRequest, match="delen keys new"):
        Client("far", endpoint=f"tcp://127.0.0.1:{operated.ports['far']}")


def test_a_denied_flood_leaves_one_line_in_the_log(operated: Operated) -> None:
    from delen.clients.keys import read_key

    server = read_key(operated.key("near")).server_key
    assert server is not None
    before = operated.daemon.log().count("denied at tcp/near")
    pair = zmq.curve_keypair()
    with zmq.Context() as context:
        for _ in range(10):
            with context.socket(zmq.DEALER) as made:
                made.linger = 0
                made.curve_serverkey = server.encode()
                made.curve_publickey, made.curve_secretkey = pair
                monitor = made.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED)
                made.connect(f"tcp://127.0.0.1:{operated.ports['near']}")
                assert monitor.poll(1000 * WAIT_S_MAX)
                made.disable_monitor()
                monitor.close()
    assert operated.daemon.until_said("denied at tcp/near", before + 1).count("denied at tcp/near") == before + 1


def test_a_key_that_is_revoked_ends_with_the_next_message_on_an_open_connection(operated: Operated) -> None:
    with operated.client("near") as client:
        client.ping()
        text = operated.file("near").read_text()
        keys("revoke", "near", "--config-dir", str(operated.folder))
        operated.reload()
        with pytest.raises(Refused) as caught:
            client.ping()
        assert caught.value.code == "revoked"
        # Given back, it is as if nothing had been, even on the same connection.
        operated.file("near").write_text(text)
        operated.reload()
        client.ping()


def test_a_key_is_rotated_without_anybody_being_cut_off(operated: Operated) -> None:
    with operated.client("far") as old:
        old.ping()
        new_file = operated.folder / "far2.key"
        where = ("--config-dir", str(operated.folder))
        keys("rotate", "far", "--overlap", "1h", "--tcp", "127.0.0.1", "--out", str(new_file), *where)
        operated.reload()
        old.ping()
        with Client(key_file=new_file, timeout_s=WAIT_S_MAX) as new:
            assert new.session().tenant == "far"
        old.ping()


def ping_for_ever(client: Client) -> None:
    for _ in range(100_000):
        client.ping()


def test_rights_that_are_taken_from_a_uid_end_what_it_waits_for(operated: Operated) -> None:
    text = operated.file("local").read_text()
    with operated.local() as client:
        client.ping()
        try:
            operated.file("local").write_text(text.replace(f"uids = [{os.getuid()}]", "uids = []"))
            os.kill(operated.daemon.pid, signal.SIGHUP)
            with pytest.raises(Refused) as caught:
                ping_for_ever(client)
            assert caught.value.code == "revoked"
        finally:
            operated.file("local").write_text(text)
            os.kill(operated.daemon.pid, signal.SIGHUP)
        for _ in range(100_000):
            try:
                client.ping()
            except Refused:
                continue
            break
        client.ping()


def test_caps_of_a_tenant_are_kept_and_named(operated: Operated) -> None:
    text = operated.file("local").read_text()
    try:
        said = "rate_hz_max = 0.5\nburst_max = 2\npayload_bytes_max = 300\n[deepest_exit]\ndigits = 0\n"
        operated.file("local").write_text(text + said)
        operated.reload()
        with operated.local() as client:
            assert client.session().payload_bytes_max == 300
            answer = client.infer("digits", X, objective="accuracy").answer
            assert answer.exit == 0
            with pytest.raises(BoundsInfeasible):
                client.infer("digits", X, accuracy=0.99)
            client.infer("digits", X)
            with pytest.raises(QueueFull) as caught:
                client.infer("digits", X)
            assert caught.value.code == "rate"
            assert caught.value.retry_after_ms is not None
            assert 0 < caught.value.retry_after_ms <= 2000
    finally:
        operated.file("local").write_text(text)
        operated.reload()


def test_a_secret_that_others_can_read_stops_the_start(operated: Operated, tmp_path: Path) -> None:
    secret = operated.folder / "keys" / "server.secret"
    copied = tmp_path / "server.secret"
    copied.write_bytes(secret.read_bytes())
    copied.chmod(0o644)
    config = tmp_path / "delen.toml"
    config.write_text(
        f'tcp = "tcp://127.0.0.1"\nserver_key_file = "{copied}"\nnetworks = ["digits"]\n[[tenants]]\nname = "a"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "delen", "serve", "--config", str(config), "--runtime-dir", str(tmp_path / "run")],
        env=operated.daemon.environ,
        capture_output=True,
        text=True,
        timeout=3 * WAIT_S_MAX,
        check=False,
    )
    assert done.returncode == 78
    assert "chmod 600" in done.stderr
    assert copied.read_text().split('secret_key = "')[1][:40] not in done.stderr


def test_who_sends_too_much_that_is_malformed_is_cooled_down_and_others_are_not(operated: Operated) -> None:
    with Plain(operated.daemon, "local") as plain, operated.client("far") as other:
        refused = []
        for _ in range(100):
            plain.socket.send(b"\xc1 no message")
            refused.append(plain.receive())
        assert [getattr(reply, "code", "") for reply in refused] == ["malformed"] * 99 + ["cooling"]
        other.ping()
        # Not lost, only later.
        assert plain.until_pong() == []
