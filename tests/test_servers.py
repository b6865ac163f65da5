"""Which address a client asks at, where its key file names several."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.clients.endpoints import locate
from delen.clients.errors import BadFile
from delen.clients.keys import KeyFile, Server, key_text_of, new_pair, read_key, write_secret
from delen.clients.servers import PATIENCE_US, PATIENCE_US_WELCOME, Servers

OLD, NEW = Server("tcp://h:1", "old"), Server("tcp://h:2", "new")


def test_the_next_one_is_asked_after_silence_and_then_the_first_again() -> None:
    servers = Servers([OLD, NEW])
    assert not servers.turn(PATIENCE_US - 1, 0, welcome=False)
    assert servers.turn(PATIENCE_US, 0, welcome=False)
    assert servers.current == NEW
    # There it is given as long again, whoever waits since when.
    assert not servers.turn(2 * PATIENCE_US - 1, 0, welcome=False)
    assert servers.turn(2 * PATIENCE_US, 0, welcome=False)
    assert servers.current == OLD


def test_nobody_turns_away_who_does_not_wait_or_is_answered() -> None:
    servers = Servers([OLD, NEW])
    assert not servers.turn(10 * PATIENCE_US_WELCOME, None, welcome=True)
    assert not servers.turn(10 * PATIENCE_US_WELCOME, 9 * PATIENCE_US_WELCOME + 1, welcome=True)
    assert servers.current == OLD
    assert not Servers([OLD]).turn(10 * PATIENCE_US_WELCOME, 0, welcome=False)


def key_file(folder: Path, more: str = "") -> Path:
    path = folder / "acme.key"
    text = key_text_of(KeyFile("acme", "tcp://h:1", new_pair().public, new_pair()))
    path.unlink(missing_ok=True)
    write_secret(path, text + more)
    return path


def test_a_key_file_names_other_addresses_in_its_order(tmp_path: Path) -> None:
    public = new_pair().public
    path = key_file(tmp_path, f'\n[[servers]]\nendpoint = "tcp://h:2"\nserver_key = "{public}"\n')
    assert read_key(path).servers == (Server("tcp://h:2", public),)
    assert locate(None, None, key_file=path).servers == (Server("tcp://h:2", public),)
    assert locate(None, "tcp://other:3", key_file=path).servers == (), "who says where means it"
    assert locate(None, None, key_file=path, server_key=public).servers == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('servers = "tcp://h:2"', "expected at most"),
        ("[[servers]]\n", "and nothing else"),
        ('[[servers]]\nendpoint = "tcp://h:2"\nserver_key = "short"', "server_key: "),
        ('[[servers]]\nendpoint = "tcp://h:2"\nserver_key = 5', "no text"),
        ("[[servers]]\nendpoint = 'ipc://x'\nserver_key = 'KEY'", "expected tcp://"),
    ],
)
def test_other_addresses_that_cannot_be_are_named(tmp_path: Path, said: str, words: str) -> None:
    path = key_file(tmp_path, "\n" + said.replace("KEY", new_pair().public) + "\n")
    with pytest.raises(BadFile, match=words):
        read_key(path)
