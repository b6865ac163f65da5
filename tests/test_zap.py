"""The handshake's protocol: who is admitted is named, who is not learns nothing, and a flood fills no log."""

from __future__ import annotations

import pytest

from delen.daemon.rights import Rights, TenantConfig
from delen.daemon.zap import AUDIT_US_MAX, DENIED_MAX, QUIET_US, Denials, Doorkeeper, Rejected, Rejections

SECOND_US = 1_000_000


def asked(uid: int = 1001, *, domain: bytes = b"ipc/a", version: bytes = b"1.0") -> list[bytes]:
    return [b"route", b"", version, b"7", domain, b"localhost:%d:1:1" % uid, b"", b"NULL"]


@pytest.fixture
def keeper() -> Doorkeeper:
    return Doorkeeper(Rights([TenantConfig("a", uids=(1001,))], own_uid=None, wall_s=0.0))


def test_who_is_admitted_is_named(keeper: Doorkeeper) -> None:
    reply, line = keeper.answer(0, asked())
    assert reply == [b"route", b"", b"1.0", b"7", b"200", b"OK", b"uid:1001", b""]
    assert line is None
    assert (keeper.admitted, keeper.denied) == (1, 0)


def test_who_is_denied_is_told_no_reason_and_the_operator_is(keeper: Doorkeeper) -> None:
    reply, line = keeper.answer(0, asked(1002))
    assert reply is not None
    assert reply[4:] == [b"400", b"denied", b"", b""]
    assert line is not None
    assert "ipc/a" in line
    assert "uid 1002" in line


@pytest.mark.parametrize(
    "frames",
    [[], [b"x"] * 7, asked(version=b"2.0"), [*asked()[:5], b"\xff\xfe", b"", b"NULL"], asked(domain=b"\xff")],
)
def test_what_is_no_request_admits_nobody(keeper: Doorkeeper, frames: list[bytes]) -> None:
    reply, _ = keeper.answer(0, frames)
    assert reply is None or reply[4] == b"400"


def test_the_same_denial_is_a_line_in_ten_seconds_with_a_count() -> None:
    denials = Denials()
    lines = [denials.note(step * 1000, "ipc/a", "uid 1 is not its user") for step in range(5000)]
    assert [line for line in lines if line] == [lines[0]]
    again = denials.note(10 * SECOND_US, "ipc/a", "uid 1 is not its user")
    assert again is not None
    assert "4999 more times" in again


def test_a_flood_of_strangers_shares_a_line_and_takes_no_memory() -> None:
    denials = Denials()
    lines = [denials.note(uid, "ipc/a", f"uid {uid} is not its user") for uid in range(50_000)]
    assert len([line for line in lines if line]) == DENIED_MAX + 1
    assert len(denials._said_us) <= DENIED_MAX + 1
    # Once they are old, others are told apart again.
    assert "uid 99" in str(denials.note(60 * SECOND_US, "ipc/a", "uid 99 is not its user"))


def test_for_the_audit_log_a_stranger_who_goes_on_is_told_ever_more_rarely() -> None:
    rejections = Rejections()
    told = [found for s in range(7200) if (found := rejections.note(s * SECOND_US, "ipc/a", "uid 7 is not its user"))]
    # 0, 10, 30, 70, 150, 310, 630, 1270, 2550, 5110 s: ten lines for two hours of knocking every second.
    assert [found.times for found in told] == [1, 10, 20, 40, 80, 160, 320, 640, 1280, 2560]
    assert rejections.note(7200 * SECOND_US, "ipc/b", "uid 7 is not its user") is not None, "others are told of at once"


def test_an_hour_of_calm_makes_it_begin_anew() -> None:
    rejections = Rejections()
    for s in range(100):
        rejections.note(s * SECOND_US, "ipc/a", "")
    late_us = 100 * SECOND_US + 2 * AUDIT_US_MAX
    assert rejections.note(late_us, "ipc/a", "") is not None
    assert rejections.note(late_us + QUIET_US, "ipc/a", "") is not None, "again after ten seconds"


def test_the_doorkeeper_hands_over_whom_it_rejected_once(keeper: Doorkeeper) -> None:
    keeper.answer(0, asked())
    assert keeper.take_rejected() == []
    for _ in range(5):
        keeper.answer(0, asked(1002))
    assert keeper.take_rejected() == [Rejected("ipc/a", "uid 1002 is not its user", 1)]
    assert keeper.take_rejected() == []
