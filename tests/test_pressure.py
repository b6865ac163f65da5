"""Near its memory's end the daemon takes in nothing new, says so, and goes on when it has less again."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Hello, Infer, Refusal, encode
from delen.daemon.config import Limits
from delen.daemon.desk import Desk
from delen.daemon.pressure import LOOK_US, TAKEN_BYTES_MAX, Pressure
from delen.daemon.rights import TenantConfig
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.profiles.board import memory_limit_bytes
from delen.tests.desk_simulation import info
from delen.tests.simulation import served

MIB = 1024 * 1024


class Day:
    def __init__(self, *, limit_mib: int = 0, granted_mib: int | None = None) -> None:
        limits = Limits(resident_bytes_max=limit_mib * MIB)
        self.resident_mib, self.now_us = 10, 0
        granted = None if granted_mib is None else granted_mib * MIB
        self.pressure = Pressure(limits, resident=lambda: self.resident_mib * MIB, granted=lambda: granted)
        server = Server(limits)
        server.networks["net"] = served(gates=False)
        server.worker_ready(0)
        self.desk = Desk(server, [TenantConfig("a")], limits, "boot")
        self.desk.networks["net"] = info(server.networks["net"])
        self.desk.handle(0, "a", b"r", encode(Hello(VERSION, b"h", "c")))

    def at(self, resident_mib: int) -> str | None:
        self.resident_mib = resident_mib
        self.now_us += LOOK_US
        return self.pressure.look(self.now_us, self.desk)

    def ask(self) -> Refusal | None:
        infer = Infer(VERSION, b"%d" % self.now_us, "net", TENSORS, Bounds())
        outgoing, _ = self.desk.handle(self.now_us, "a", b"r", encode(infer, (bytes(4),)))
        reply = outgoing[0].reply if outgoing else None
        assert reply is None or isinstance(reply, Refusal)
        return reply


@pytest.mark.parametrize(
    ("day", "named"),
    [(Day(limit_mib=100), "limits.resident_bytes_max"), (Day(granted_mib=100), "its control group's limit")],
)
def test_nothing_new_is_taken_in_between_too_much_and_enough(day: Day, named: str) -> None:
    assert day.at(89) is None
    assert day.ask() is None
    said = day.at(91)
    assert said is not None
    assert f"{named} is 100 MiB" in said
    refused = day.ask()
    assert refused is not None
    assert refused.code == "queue_full"
    assert named in refused.message
    assert refused.offer is not None
    assert day.at(85) is None, "said once"
    assert day.ask() is not None, "it does not change its mind all the time"
    said = day.at(79)
    assert said == "enough memory again: 79 of 100 MiB"
    assert day.ask() is None


def test_the_operator_s_limit_is_before_the_machine_s_and_without_any_nothing_is_looked_at() -> None:
    both = Day(limit_mib=200, granted_mib=100)
    assert both.at(150) is None
    assert both.ask() is None
    neither = Day()
    assert neither.at(100_000) is None
    assert neither.ask() is None


def test_it_looks_so_often_and_no_more() -> None:
    day = Day(limit_mib=100)
    day.at(10)
    day.resident_mib = 99
    assert day.pressure.look(day.now_us + LOOK_US - 1, day.desk) is None
    assert day.pressure.look(day.now_us + LOOK_US, day.desk) is not None


def test_it_looks_sooner_where_much_has_come_in() -> None:
    day = Day(limit_mib=100)
    assert day.at(10) is None
    day.resident_mib = 95
    day.desk.taken_bytes = TAKEN_BYTES_MAX - 4
    assert day.pressure.look(day.now_us, day.desk) is None
    assert day.ask() is None
    assert day.pressure.look(day.now_us, day.desk) is not None
    assert day.desk.taken_bytes == 0
    day.now_us += 1
    assert day.ask() is not None


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/system.slice/delen.service", {"system.slice/delen.service/memory.high": "384", "x": ""}, 384),
        ("0::/a", {"a/memory.high": "max", "a/memory.max": "512"}, 512),
        ("0::/a", {"a/memory.high": "max", "a/memory.max": "max"}, None),
        ("4:memory:/b\n3:cpu:/b", {"memory/b/memory.limit_in_bytes": "1024"}, 1024),
        ("4:memory:/b", {"memory/b/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/", {"memory.max": "77"}, 77),
        ("nonsense", {}, None),
        ("", {}, None),
    ],
)
def test_the_machine_s_limit_is_the_control_group_s(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert memory_limit_bytes(tmp_path) == limit
