"""Every reader of a file that somebody else may have written or a disk may have damaged, and a good file for each.

Role: `READERS`: by name, what reads the bytes, which error it may raise, and what it may not be given back. Each is
told the bytes and a directory of its own to put them in. Does not: spoil them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from delen.clients.keys import KeyFile, Pair, key_text_of, read_key
from delen.daemon import counters, scenario, served_list
from delen.daemon.audit_log import AuditLog, read_audit
from delen.daemon.config import Config, config_fault, load_config
from delen.daemon.journal import Journal, read_journal
from delen.daemon.rights import rights_fault
from delen.daemon.server_key import read_secret
from delen.daemon.slot_file import SlotFile, peek
from delen.daemon.tenant_files import read_tenant
from delen.exits import state_files
from delen.exits.bundle import shipped_directory
from delen.exits.calibration_file import Calibration, read_calibration, write_calibration
from delen.exits.graph_file import read_facts
from delen.exits.manifest import manifest_fault, read_manifest
from delen.profiles.imported import read_imported
from delen.profiles.schema import parse_profile, profile_fault
from delen.profiles.trace_files import read_counts, read_servegen, read_timestamps
from delen.tests.hostile_files import zipped
from delen.tests.sample_profile import sample_profile

# From RFC 26 on: a pair that is published everywhere, and so nobody's.
PUBLIC = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
SLOT_BYTES = 4096

CONFIG = b"""\
networks = ["digits"]
threads = 2
watts = 7.5
tcp = ""
policy = "stage-edf"
miss_target = 0.02
[policy_options]
spare_share = 0.5
[limits]
queued_max = 64
audit_share = 0.1
[[tenants]]
name = "acme"
uids = [1000, 1001]
networks = ["digits"]
rate_hz = 20.0
[tenants.deepest_exit]
digits = 1
"""
TENANT = f"""\
# a camera
uids = [1000]
networks = ["digits"]
weight = 2.0
rate_hz_max = 50.0
burst_max = 4
payload_bytes_max = 4096
tcp_port = 5600
[deepest_exit]
digits = 2
[[keys]]
public = "{PUBLIC}"
not_before = 2026-01-01T00:00:00Z
note = "first"
""".encode()
TIMESTAMPS = b"TIMESTAMP\n2023-11-16 18:17:03.9799600\n2023-11-16 18:17:04.0000000\n2023-11-16 18:17:09.5\n"
COUNTS = b"timestamp,value\n2023-11-16 18:10:00,5\n2023-11-16 18:15:00,7.5\n2023-11-16 18:25:00,0\n"
SERVEGEN = b"0,1.5,1.0,Gamma,1.0,0.6\n600,2.5,1.2,Weibull,0.8,0.4\n1200,1.0,1.0,Gamma,1.0,1.0\n"
IMPORTED = b'[{"accuracy": 0.8, "flops": 0.01, "energy": 2.0}, {"accuracy": 0.9, "flops": 0.02, "energy": 4.0}]'


class Reader(NamedTuple):
    """`read` raises AssertionError where what it got is wrong; `error`: the name of what else it may raise."""

    read: Callable[[bytes, Path], object]
    error: str
    good: Callable[[Path], bytes]


def _put(data: bytes, path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def _config(data: bytes, folder: Path) -> Config:
    config = load_config(_put(data, folder / "delen.toml"), {}, {"DELEN_RUNTIME_DIR": "/run/delen"}, 1000)
    assert config_fault(config) is None
    return config


def _tenant(data: bytes, folder: Path) -> object:
    tenant = read_tenant(_put(data, folder / "acme.toml"))
    assert rights_fault([tenant]) is None
    assert tenant.name == "acme"
    return tenant


def _manifest(data: bytes, folder: Path) -> object:
    manifest = read_manifest(data)
    assert manifest_fault(manifest) is None
    assert all("/" not in file and not file.startswith(".") for file in manifest.hashes())
    return manifest


def _profile(data: bytes, folder: Path) -> object:
    profile = parse_profile(data, folder / "board.json")
    assert profile_fault(profile) is None
    return profile


def _calibration(data: bytes, _folder: Path) -> object:
    read = read_calibration(data, 3)
    assert np.isfinite(read.confidence).all()
    assert ((read.confidence >= 0) & (read.confidence <= 1)).all()
    assert read.agrees[:, -1].all()
    return read


def _doubt(data: bytes, folder: Path) -> object:
    """One column of a calibration, spoilt behind a checksum that is right."""
    return _calibration(zipped({**_columns(folder), "doubt.npy": data}), folder)


def _columns(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_good_calibration(folder))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _slots(data: bytes, folder: Path) -> object:
    record = peek(_put(data, folder / "slots"), slot_bytes=SLOT_BYTES)
    assert record in (b"", b"older", b"newest"), record
    SlotFile(folder / "slots", slot_bytes=SLOT_BYTES).close()
    return record


def _audit(data: bytes, folder: Path) -> object:
    told = read_audit(_put(data, folder / "audit.jsonl"))
    # What is told is what was written, in order, as far as it goes.
    assert told.entries == read_audit(_put(_good_audit(folder), folder / "good.jsonl")).entries[: len(told.entries)]
    assert told.fault or data in _whole_lines(folder)
    return told


def _whole_lines(folder: Path) -> list[bytes]:
    lines = _good_audit(folder).splitlines(keepends=True)
    return [b"".join(lines[:count]) for count in range(len(lines) + 1)]


def _kept(data: bytes, folder: Path) -> object:
    """A file beside its copy: whatever becomes of the file, what was kept is read."""
    state, path = folder / "state", folder / "state" / "a.json"
    if not path.exists():
        state_files.keep(state, path, b"what was kept")
    _put(data, path)
    assert state_files.read(state, path).data == b"what was kept"
    return None


def _copy(data: bytes, folder: Path) -> object:
    """The copy, spoilt: the file is whole and is read."""
    state, path = folder / "copied", folder / "copied" / "a.json"
    if not path.exists():
        state_files.keep(state, path, b"what was kept")
    _put(data, state / state_files.COPIES / "a.json")
    assert state_files.read(state, path).data == b"what was kept"
    return None


def _served(data: bytes, folder: Path) -> object:
    _put(data, folder / "networks.json")
    found, fault = served_list.read_list(folder)
    assert not (found and fault)
    return found


def _good_slots(folder: Path) -> bytes:
    (folder / "made").unlink(missing_ok=True)
    file = SlotFile(folder / "made", slot_bytes=SLOT_BYTES)
    file.write(b"older")
    file.write(b"newest")
    file.close()
    return (folder / "made").read_bytes()


def _good_audit(folder: Path) -> bytes:
    file = folder / "audited" / "audit.jsonl"
    if not file.exists():
        log = AuditLog(file.parent, "2026-01-01T00:00:00")
        for n in (1, 2, 3):
            log.append("2026-01-01T00:00:00", "uid 0", "reload", {"n": n})
        log.close()
    return file.read_bytes()


def _good_copy(folder: Path) -> bytes:
    state_files.keep(folder / "other", folder / "other" / "a.json", b"what was kept")
    return (folder / "other" / state_files.COPIES / "a.json").read_bytes()


def _good_calibration(_folder: Path) -> bytes:
    truth = np.ones((40, 3), bool)
    fit = np.arange(40) % 2 == 0
    return write_calibration(np.full((40, 3), 0.25), Calibration(np.full((40, 3), 0.75, np.float32), truth, truth, fit))


def _good_journal(folder: Path) -> bytes:
    from delen.daemon.journal_records import Setup
    from delen.daemon.recorded import core

    (folder / "journal").unlink(missing_ok=True)
    journal = Journal(folder / "journal", bytes_max=10**6, note=lambda _line: None)
    core(Setup(), journal, lambda _name: None, now_us=0, wall="2026-01-01")
    journal.close()
    return (folder / "journal").read_bytes()


def _shipped(file: str) -> Callable[[Path], bytes]:
    return lambda _folder: (shipped_directory() / "digits" / file).read_bytes()


def _scenario(_folder: Path) -> bytes:
    return (Path(scenario.__file__).parent.parent / "policies" / "scenarios" / "e10.toml").read_bytes()


def _constant(data: bytes) -> Callable[[Path], bytes]:
    return lambda _folder: data


def _key(_folder: Path) -> bytes:
    return key_text_of(KeyFile("acme", "tcp://127.0.0.1:5600", PUBLIC, Pair(PUBLIC, SECRET))).encode()


READERS: Mapping[str, Reader] = {
    "config": Reader(_config, "ConfigError", _constant(CONFIG)),
    "tenant": Reader(_tenant, "ConfigError", _constant(TENANT)),
    "manifest": Reader(_manifest, "ManifestFault", _shipped("network.toml")),
    "profile": Reader(_profile, "ProfileError", lambda _: msgspec.json.encode(sample_profile())),
    "imported": Reader(lambda d, f: read_imported(_put(d, f / "i.json")), "ProfileError", _constant(IMPORTED)),
    "calibration": Reader(_calibration, "CalibrationFault", _good_calibration),
    "doubt": Reader(_doubt, "CalibrationFault", lambda folder: _columns(folder)["doubt.npy"]),
    "graph": Reader(lambda d, _: read_facts(d), "GraphFault", _shipped("head0.onnx")),
    "slots": Reader(_slots, "OSError", _good_slots),
    "counters": Reader(
        lambda d, _: counters.decoded(d),
        "CountersDamaged",
        _constant(b'{"format":1,"totals":[{"tenant":"acme","energy_mj":12.5,"day":[[1700000000,3.5]]}]}'),
    ),
    "audit": Reader(_audit, "OSError", _good_audit),
    "kept file": Reader(_kept, "", _constant(b"what was kept")),
    "kept copy": Reader(_copy, "", _good_copy),
    "networks": Reader(_served, "", _constant(b'[{"name":"digits","version":"1","digest":"' + b"0" * 64 + b'"}]')),
    "journal": Reader(lambda d, f: list(read_journal(_put(d, f / "j"))), "JournalError", _good_journal),
    "key": Reader(lambda d, f: read_key(_put(d, f / "k.key")), "BadFile", _key),
    "secret": Reader(lambda d, f: read_secret(_put(d, f / "server.secret")), "ConfigError", _key),
    "scenario": Reader(lambda d, f: scenario.load_scenario(str(_put(d, f / "s.toml"))), "ScenarioError", _scenario),
    "timestamps": Reader(lambda d, f: read_timestamps(_put(d, f / "t.csv")), "TraceError", _constant(TIMESTAMPS)),
    "counts": Reader(lambda d, f: read_counts(_put(d, f / "c.csv")), "TraceError", _constant(COUNTS)),
    "servegen": Reader(lambda d, f: read_servegen(_put(d, f / "g.csv")), "TraceError", _constant(SERVEGEN)),
}
