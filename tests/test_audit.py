"""What `make audit` makes of a report: nothing is passed over without a reason and a date."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest

from delen.tests.audit import WAIVERS, Found, Waiver, found_in, judge, read_waivers

TODAY = date(2026, 6, 1)
FAULT = Found("zmq", "1.0", ("PYSEC-1", "CVE-2026-1"), ("1.1",))


def waiver(until: date = date(2026, 12, 31), **changes: str) -> Waiver:
    return msgspec.structs.replace(Waiver("CVE-2026-1", "zmq", "not called here", until), **changes)


def test_a_report_is_read() -> None:
    fault = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"], "description": "..."}
    report = {
        "dependencies": [
            {"name": "zmq", "version": "1.0", "vulns": [fault]},
            {"name": "fine", "version": "2", "vulns": []},
            {"name": "ours", "skip_reason": "not on PyPI"},
        ],
        "fixes": [],
    }
    assert found_in(report) == [FAULT]


def test_what_nobody_waived_is_said_with_its_remedy() -> None:
    assert judge([FAULT], (), TODAY) == ["zmq 1.0: PYSEC-1, CVE-2026-1; fixed in 1.1"]
    assert judge([], (), TODAY) == []


def test_a_waiver_holds_for_its_package_by_any_name_until_its_day() -> None:
    assert judge([FAULT], (waiver(),), TODAY) == []
    assert judge([FAULT], (waiver(id="PYSEC-1"),), TODAY) == []
    assert "its waiver ended" in judge([FAULT], (waiver(date(2026, 5, 31)),), TODAY)[0]
    assert len(judge([FAULT], (waiver(package="other"),), TODAY)) == 2


def test_a_waiver_that_waives_nothing_goes() -> None:
    assert judge([], (waiver(),), TODAY) == ["waiver of CVE-2026-1 for zmq is not needed; remove it"]


def test_a_waiver_without_a_reason_or_a_date_is_none() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_waivers(b'[[waivers]]\nid = "CVE-1"\npackage = "x"\nuntil = 2027-01-01\n')
    read_waivers(WAIVERS.read_bytes())
