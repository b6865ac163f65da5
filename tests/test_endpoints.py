"""Where a client looks for its tenant's socket, and what it says when there is none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from delen.clients import endpoints, places
from delen.clients.endpoints import IPC_PATH_BYTES_MAX, find_endpoint, tenant_name
from delen.clients.errors import BadRequest, Unreachable
from delen.clients.places import endpoint_path


def make_socket(directory: Path, tenant: str) -> Path:
    path = endpoint_path(directory, tenant)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def test_the_tenant_is_the_one_given_else_the_environments_else_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tenant_name(None) == "default"
    monkeypatch.setenv("DELEN_TENANT", "cam")
    assert tenant_name(None) == "cam"
    assert tenant_name("mic") == "mic"
    with pytest.raises(BadRequest, match="not a name"):
        tenant_name("../other")


def test_the_users_own_socket_is_found_before_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = make_socket(tmp_path / "delen", "cam")
    assert find_endpoint("cam") == f"ipc://{path}"


def test_a_directory_that_somebody_else_made_in_our_name_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DELEN_RUNTIME_DIR", raising=False)
    for module in (places, endpoints):
        monkeypatch.setattr(module, "fallback_directory", lambda _uid: tmp_path / "run")
    path = make_socket(tmp_path / "run", "cam")
    assert find_endpoint("cam") == f"ipc://{path}"
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(Unreachable, match="not to you"):
        find_endpoint("cam")


def test_a_missing_socket_names_every_place_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unreachable) as caught:
        find_endpoint("cam")
    text = str(caught.value)
    assert str(tmp_path / "delen" / "t" / "cam" / "sock") in text
    assert "/run/delen/t/cam/sock" in text
    assert "delen serve" in text


def test_an_endpoint_given_is_taken_as_it_is(tmp_path: Path) -> None:
    path = make_socket(tmp_path, "cam")
    assert find_endpoint("cam", str(path)) == f"ipc://{path}"
    assert find_endpoint("cam", f"ipc://{path}") == f"ipc://{path}"
    assert find_endpoint("cam", "tcp://127.0.0.1:1") == "tcp://127.0.0.1:1"
    with pytest.raises(Unreachable, match="no socket"):
        find_endpoint("cam", str(tmp_path / "other"))


def test_a_path_longer_than_a_unix_socket_may_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="longer than") as caught:
        find_endpoint("cam", str(tmp_path / ("x" * IPC_PATH_BYTES_MAX)))
    assert "DELEN_RUNTIME_DIR" in caught.value.hint


def test_a_socket_this_user_may_not_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_socket(tmp_path, "cam")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(Unreachable, match="no right") as caught:
        find_endpoint("cam", str(path))
    assert "operator" in caught.value.hint
