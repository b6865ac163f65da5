"""A change is acknowledged after it is on the disk, told where it could not be, and at once in development."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from delen.clients.wire import VERSION, Managed, Refusal
from delen.daemon.acknowledged import once_audited, once_written
from delen.daemon.audit_log import read_audit
from delen.daemon.desk import Outgoing
from delen.daemon.keeping import AUDIT
from delen.daemon.log_writer import Log
from delen.daemon.reload import Reloaded
from delen.daemon.served_list import read_list
from delen.exits.bundle import load_bundle, shipped_directory
from delen.tests.test_keeping import Kept

DONE = Outgoing("ops", b"D1", Managed(VERSION, b"7", "digits", "1"))


def order(kept: Kept, *outgoing: Outgoing) -> list[Outgoing]:
    sent: list[Outgoing] = []
    bundle = load_bundle(shipped_directory() / "digits")
    once_audited(kept.keeping, outgoing, lambda: [bundle], sent.extend)
    return sent


def test_done_is_said_once_it_is_on_the_disk(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "state")
    sent = order(kept, DONE)
    assert sent == []
    kept.settle()
    assert sent == [DONE]
    last = read_audit(tmp_path / "state" / AUDIT / "audit.jsonl").entries[-1]
    assert (last.who, last.what, last.about) == (
        "tenant ops",
        "networks changed",
        {"network": "digits", "version": "1"},
    )
    assert list(read_list(tmp_path / "state")[0]) == ["digits"]
    kept.close()


def test_a_disk_that_refuses_is_told_to_who_ordered_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "state")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    sent = order(kept, DONE)
    kept.settle()
    (told,) = sent
    assert isinstance(told.reply, Refusal)
    assert "cannot be written to the state directory: No space left" in told.reply.message
    monkeypatch.undo()
    kept.close()


def test_refusals_wait_for_nothing_and_development_keeps_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "state")
    refused = Outgoing("ops", b"D1", Refusal(VERSION, b"7", "busy", "later"))
    assert order(kept, refused) == [refused]
    kept.close()
    assert order(Kept(tmp_path / "dev", dev=True), DONE) == [DONE]


def test_what_is_not_listed_is_not_done_though_the_audit_log_could_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "state")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("delen.exits.state_files.keep", full)
    sent = order(kept, DONE)
    kept.settle()
    (told,) = sent
    assert isinstance(told.reply, Refusal)
    assert read_audit(tmp_path / "state" / AUDIT / "audit.jsonl").entries[-1].what == "begin"
    monkeypatch.undo()
    kept.close()


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("fault", ["", "No space left on device"])
def test_a_reload_is_acknowledged_once_the_audit_log_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool, fault: str
) -> None:
    kept = Kept(tmp_path / "state")
    said: list[str] = []

    def note(text: str, **_: Any) -> None:
        said.append(text)

    def full(_: int) -> None:
        raise OSError(28, fault)

    kept.settle()
    if fault:
        monkeypatch.setattr(os, "fdatasync", full)
    once_written(kept.keeping, Reloaded(taken, "news", "reload 1"), cast(Log, note), lambda: said.append("READY"))
    assert said == [], "nobody may build on what a power cut can undo"
    kept.settle()
    unwritten = [f"the reload could not be written to the audit log: {fault}"] if fault else []
    assert said == ["news", *unwritten, "READY"], "the manager waits for ready in any case: it is served"
    monkeypatch.undo()
    last = read_audit(tmp_path / "state" / AUDIT / "audit.jsonl").entries[-1]
    assert fault or (last.what, last.about) == ("reload", {"taken": taken})
    kept.close()
