"""As many tenants as there may be: a thousand endpoints are there soon, cost little each, and every one is served."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.tests.daemon_fixture import Plain
from delen.tests.faults import figures

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

TENANTS = 1000
# Of memory, for a socket, its monitor and what is kept of a tenant that has said nothing yet.
KIB_EACH_MAX = 256


def started(folder: Path, count: int) -> tuple[PrivateDaemon, float]:
    """A daemon of so many tenants that is to be entered, and its configuration's name."""
    config = folder / f"{count}.toml"
    tenants = "".join(f'[[tenants]]\nname = "t{number}"\nuids = [{os.getuid()}]\n' for number in range(count))
    config.write_text(f"networks = ['digits']\n{tenants}[limits]\ntenants_max = {TENANTS}\n")
    daemon = PrivateDaemon((), (), arguments=["--config", str(config)], state_dir=folder / "state", dev=False)
    return daemon, time.monotonic()


def test_a_thousand_tenants_are_there_soon_and_cost_little(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("many")
    took_s, resident, ping_us = [], [], dict[int, float]()
    # The first measures the network, so that it is no part of what the others are compared by.
    for count in (1, 1, TENANTS):
        daemon, since_s = started(folder, count)
        with daemon:
            took_s.append(time.monotonic() - since_s)
            resident.append(psutil.Process(daemon.pid).memory_info().rss)
            for name in {"t0", f"t{count // 2}", f"t{count - 1}"}:
                with Plain(daemon, name) as plain:
                    plain.answers([plain.infer()])
                    assert [row.tenant for row in plain.stats().tenants] == [name]
                    asked_s = time.monotonic()
                    for _ in range(100):
                        assert plain.until_pong() == []
                    ping_us[count] = (time.monotonic() - asked_s) * 1e4
    kib_each = (resident[2] - resident[1]) / 1024 / TENANTS
    figures.note("fault 23: start with 1,000 tenants", took_s[2], "s", target=2.0, beside=f"with one {took_s[1]:.2f} s")
    figures.note("fault 23: memory of each tenant", kib_each, "KiB")
    beside = f"with one {ping_us[1]:.0f} us"
    figures.note("fault 23: ping beside 999 others", ping_us[TENANTS], "us", beside=beside)
    assert took_s[2] < 10.0
    assert kib_each < KIB_EACH_MAX
