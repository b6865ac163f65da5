"""Key files: written once for one owner, read only if they are private, and never repeated in an error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from delen.clients.endpoints import locate
from delen.clients.errors import BadFile, BadRequest, Unreachable
from delen.clients.keys import KeyFile, Pair, key_text_of, new_pair, read_key, write_secret

SERVER = new_pair()


@pytest.fixture
def pair() -> Pair:
    return new_pair()


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "some.key"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_what_is_written_is_read_and_is_its_owners_alone(tmp_path: Path, pair: Pair) -> None:
    key, path = KeyFile("acme", "tcp://h:5", SERVER.public, pair), tmp_path / "acme.key"
    before = os.umask(0o000)
    try:
        write_secret(path, key_text_of(key))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == key


def test_a_secret_is_never_overwritten_nor_written_through_a_link(tmp_path: Path, pair: Pair) -> None:
    path = tmp_path / "acme.key"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_secret(path, "other")
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "link.key", "other")
    assert path.read_text() == "precious"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["acme.key", "link.key"], "nothing is left lying about"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666, 0o610])
def test_a_file_that_others_can_touch_is_refused(tmp_path: Path, pair: Pair, mode: int) -> None:
    path = written(tmp_path, key_text_of(KeyFile(None, None, None, pair)), mode)
    with pytest.raises(BadFile, match="chmod 600"):
        read_key(path)


def test_every_damaged_file_is_refused_without_being_repeated(tmp_path: Path, pair: Pair) -> None:
    text = key_text_of(KeyFile("a", "tcp://h:5", SERVER.public, pair))
    good = read_key(written(tmp_path, text))
    damaged: list[str | bytes] = [
        "",
        "secret_key",
        text.replace("secret_key", "secret"),
        text.replace(pair.public, new_pair().public),
        text.replace(pair.secret, pair.secret[:-1]),
        text.replace(pair.secret, pair.secret[:-1] + "~"),
        text.replace(SERVER.public, "x"),
        text.replace('"tcp://h:5"', "5"),
        text.encode().replace(b"tcp", b"\xff"),
        "x = " + "[" * 5000,
        "#" * 20_000,
    ]
    for said in [*damaged, *(text[:length] for length in range(0, len(text) - 2, 7))]:
        path = written(tmp_path, said)
        with pytest.raises(BadFile) as caught:
            read_key(path)
        assert pair.secret not in str(caught.value)
        assert pair.secret[:20] not in str(caught.value)
    # Lines may end as they do elsewhere.
    assert read_key(written(tmp_path, text.replace("\n", "\r\n"))) == good


def test_pipes_directories_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "absent", "."):
        with pytest.raises(BadFile):
            read_key(tmp_path / name)


def test_the_secret_half_is_not_shown(pair: Pair) -> None:
    assert pair.secret not in repr(pair)
    assert pair.secret not in repr(KeyFile(None, None, None, pair))


@pytest.fixture
def key_file(tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DELEN_KEY_FILE", "DELEN_SERVER_KEY", "DELEN_TENANT"):
        monkeypatch.delenv(name, raising=False)
    return written(tmp_path, key_text_of(KeyFile("acme", "tcp://h:5", SERVER.public, pair)))


def test_a_key_file_says_whom_to_ask_where_and_by_which_keys(key_file: Path, pair: Pair) -> None:
    found = locate(None, None, key_file=key_file)
    assert (found.tenant, found.endpoint, found.server_key, found.pair) == ("acme", "tcp://h:5", SERVER.public, pair)
    other = new_pair().public
    found = locate("b", "tcp://i:6", key_file=key_file, server_key=other)
    assert (found.tenant, found.endpoint, found.server_key) == ("b", "tcp://i:6", other)


def test_the_shell_may_name_it_and_a_local_endpoint_needs_none(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELEN_KEY_FILE", str(key_file))
    assert locate(None, None).pair is not None
    with pytest.raises(Unreachable):
        locate("a", str(tmp_path / "sock"))
    monkeypatch.setenv("DELEN_SERVER_KEY", "short")
    with pytest.raises(BadRequest, match="40 characters"):
        locate(None, None)


def test_tcp_is_never_spoken_without_keys(key_file: Path, pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="needs a key"):
        locate("a", "tcp://h:5")
    nobody = written(tmp_path, key_text_of(KeyFile("acme", "tcp://h:5", None, pair)))
    with pytest.raises(BadRequest, match="server_key"):
        locate(None, None, key_file=nobody)
    nowhere = written(tmp_path, key_text_of(KeyFile("acme", None, SERVER.public, pair)))
    with pytest.raises(BadRequest, match="no endpoint"):
        locate(None, None, key_file=nowhere)
