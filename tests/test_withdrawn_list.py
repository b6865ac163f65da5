"""A certificate that was withdrawn stays so over restarts, until it would rest on other samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon.audit_log import read_audit
from delen.daemon.journal_records import Setup
from delen.daemon.keeping import AUDIT
from delen.daemon.recorded import core
from delen.daemon.simulate import TENSORS
from delen.daemon.withdrawn_list import Withdrawn, read_withdrawn, still, write_withdrawn
from delen.exits import state_files
from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.calibration_file import write_calibration
from delen.exits.calibrations import keep, overridden
from delen.policies.exits import asked
from delen.tests.simulation import served
from delen.tests.test_keeping import Kept


@pytest.fixture(scope="module")
def digits() -> Bundle:
    return load_bundle(shipped_directory() / "digits")


def withdrawn(bundle: Bundle, tenant: str = "a") -> Withdrawn:
    manifest = bundle.manifest
    return Withdrawn(tenant, manifest.name, manifest.version, bundle.evidence, "drift", "2026-01-02T03:04:05Z")


def test_what_was_written_is_read_and_what_is_damaged_is_said(tmp_path: Path, digits: Bundle) -> None:
    assert read_withdrawn(tmp_path) == ([], "")
    write_withdrawn(tmp_path, [withdrawn(digits), withdrawn(digits, "b")])
    assert read_withdrawn(tmp_path) == ([withdrawn(digits), withdrawn(digits, "b")], "")
    state_files.keep(tmp_path, tmp_path / "withdrawn.json", b"{}")
    found, fault = read_withdrawn(tmp_path)
    assert found == []
    assert "it is written anew" in fault


def test_it_holds_for_the_same_samples_alone(tmp_path: Path, digits: Bundle) -> None:
    listed = [withdrawn(digits)]
    assert still(listed, [digits]) == listed
    assert still(listed, []) == listed, "it may be served again"
    calibration = digits.calibration()
    assert calibration is not None
    doubt = np.full(calibration.confidence.shape, 0.5)
    keep(tmp_path, digits, write_calibration(doubt, calibration, [1.0] * len(digits.manifest.exits)))
    own = overridden(digits, tmp_path)
    assert own.evidence != digits.evidence
    assert still(listed, [own]) == []
    assert still([withdrawn(own)], [own]) == [withdrawn(own)]


def test_a_daemon_that_starts_again_knows_what_was_withdrawn(tmp_path: Path, digits: Bundle) -> None:
    kept = Kept(tmp_path / "state", bundles=[digits])
    assert kept.keeping.withdrawn([digits]) == ()
    kept.keeping.withdraw("a", digits, "its labels show more wrong answers than was certified")
    kept.close()
    last = read_audit(tmp_path / "state" / AUDIT / "audit.jsonl").entries[-2]
    assert (last.what, last.about["tenant"], last.about["network"]) == ("certificate withdrawn", "a", "digits")
    again = Kept(tmp_path / "state", bundles=[digits])
    assert again.keeping.withdrawn([digits]) == (("a", "digits", digits.manifest.version),)
    assert again.notes == []
    again.close()


def test_a_core_told_so_promises_nothing_to_that_tenant() -> None:
    server = core(Setup(withdrawn=(("a", "net", "1"),)), None, lambda _: None, now_us=0, wall="")
    server.networks["net"] = served()
    server.worker_ready(0)
    for tenant in ("a", "b"):
        said = Bounds(accuracy=0.93)
        infer = Infer(VERSION, tenant.encode(), "net", TENSORS, said)
        ticket, _ = server.submit(0, tenant, infer, asked(said), bytes(4))
        assert isinstance(ticket, int)
        plan = server._requests.open[ticket].plan
        assert (plan.certificate == "withdrawn") == (tenant == "a")
