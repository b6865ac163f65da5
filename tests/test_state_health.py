"""What `delen doctor` says of a state directory: nothing of none, all well, or each damage with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from delen.clients import cli
from delen.daemon.audit_log import AuditLog
from delen.daemon.counters import Counters
from delen.daemon.keeping import AUDIT, COUNTERS, SLOT_BYTES
from delen.daemon.ledger import Account
from delen.daemon.slot_file import SlotFile
from delen.daemon.state_health import Part, look
from delen.exits import state_files


def used(state: Path) -> Path:
    state_files.keep(state, state / "profiles" / "x.json", b"whole")
    counted = Counters()
    counted.add({"a": Account("a", energy_mj=2500.0, device_us=1_500_000)})
    slots = SlotFile(state / COUNTERS, slot_bytes=SLOT_BYTES)
    slots.write(counted.encoded())
    slots.close()
    log = AuditLog(state / AUDIT, "now")
    log.append("now", "uid 0", "begin")
    log.close()
    return state


def test_nothing_is_said_of_what_is_not_there(tmp_path: Path) -> None:
    assert look(tmp_path / "absent") == []


def test_a_whole_one_is_well(tmp_path: Path) -> None:
    assert look(used(tmp_path / "state")) == [
        Part("state files", "1 with a copy, all whole"),
        Part("tenants' counters", "1 tenants: 2.5 J and 1.5 s of the device in all"),
        Part("audit log", "1 lines, unbroken"),
    ]


def test_each_damage_is_named_with_what_to_do_and_nothing_is_changed(tmp_path: Path) -> None:
    state = used(tmp_path / "state")
    (state / "profiles" / "x.json").write_bytes(b"half")
    slots = SlotFile(state / COUNTERS, slot_bytes=SLOT_BYTES)
    slots.write(b"no record of ours")
    slots.close()
    log = state / AUDIT / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"uid 0", b"uid 1"))
    state.chmod(0o777)
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    found = {part.name: part for part in look(state)}
    assert "chmod o-w" in found["state rights"].found
    assert "x.json is not what was written there" in found["state files"].found
    assert found["state files"].fix == "the daemon mends this when it starts"
    assert "cannot be read" in found["tenants' counters"].found
    assert "line 1 is not as it was written" in found["audit log"].found
    assert all(part.fix for part in found.values())
    assert before == {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_doctor_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = used(tmp_path / "state")
    (state / "profiles" / "x.json").write_bytes(b"half")
    monkeypatch.setenv("DELEN_STATE_DIR", str(state))
    result = CliRunner().invoke(cli.delen, ["doctor", "--json"], prog_name="delen")
    found = {finding["check"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert found["audit log"]["state"] == "ok"
    assert found["state files"]["state"] == "warn"
    assert found["state files"]["fix"] == "the daemon mends this when it starts"
