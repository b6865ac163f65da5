"""The service manager's side of the protocol: which datagrams it gets, and that nobody waits for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.daemon.notify import STATUS_CHARS_MAX, Notifier


class Manager:
    """A socket such as systemd's."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    made = Notifier(manager.socket.getsockname())
    yield made
    made.close()


def test_every_message_is_one_datagram_in_the_manager_s_words(manager: Manager, notifier: Notifier) -> None:
    notifier.ready("serving")
    notifier.reloading(123)
    notifier.ready("serving")
    notifier.alive()
    notifier.stopping("draining")
    assert manager.heard() == [
        "READY=1\nSTATUS=serving",
        "RELOADING=1\nMONOTONIC_USEC=123",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_a_status_is_said_once_and_stays_one_line(manager: Manager, notifier: Notifier) -> None:
    notifier.status("2 networks")
    notifier.status("2 networks")
    # A name in it cannot become a message of its own.
    notifier.status("tenant x\nWATCHDOG=1\r\nREADY=1")
    notifier.status("x" * 10_000)
    one, two, three = manager.heard()
    assert (one, two) == ("STATUS=2 networks", "STATUS=tenant x WATCHDOG=1 READY=1")
    assert len(three) == len("STATUS=") + STATUS_CHARS_MAX


def test_an_abstract_socket_is_found() -> None:
    manager = Manager("\0delen-test-notify")
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "@delen-test-notify"}, pid=1)
    notifier.alive()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.close()
    manager.socket.close()


def test_a_manager_that_is_gone_or_full_holds_nobody_up(tmp_path: Path, manager: Manager, notifier: Notifier) -> None:
    for _ in range(10_000):
        notifier.alive()
    assert manager.heard(), "the first were taken"
    manager.socket.close()
    notifier.alive()
    nowhere = Notifier(str(tmp_path / "nobody"))
    nowhere.ready("")
    nowhere.close()


def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier.from_environment({}, pid=1)
    assert not notifier.listening
    assert notifier.watchdog_us is None
    notifier.ready("serving")


@pytest.mark.parametrize(
    ("environ", "watchdog_us"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 10_000_000),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 10_000_000),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_the_one_meant_for_this_process(environ: dict[str, str], watchdog_us: int | None) -> None:
    notifier = Notifier.from_environment(environ, pid=7)
    assert notifier.watchdog_us == watchdog_us
    assert environ == {}, "no child takes it for its own"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "@", "/"])
def test_an_address_that_is_no_unix_socket_is_nobody(address: str) -> None:
    assert not Notifier.from_environment({"NOTIFY_SOCKET": address}, pid=1).listening
