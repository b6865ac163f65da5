"""A load that does not fit is refused before anything is loaded, with the sums and what to do; what runs goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from delen.clients.client import Client
from delen.clients.errors import Refused
from delen.daemon import hosting, memory_budget
from delen.daemon.arena import Need
from delen.daemon.config import Config, ConfigError
from delen.daemon.memory_budget import RESERVE_BYTES, memory_fault, needed_bytes
from delen.daemon.rights import TenantConfig
from delen.daemon.worker_process import Hosted
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.memory_need import MIB, engine_bytes
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Images, serving

NEED = Need(64, 3, 10, 32)


def hosted(*names: str) -> dict[str, Hosted]:
    return {name: Hosted(load_bundle(shipped_directory() / name), NEED) for name in names}


def test_what_fits_is_no_matter_and_neither_is_a_system_that_does_not_say() -> None:
    assert memory_fault(Config(), [hosted("digits", "fashion")], 1 << 40) is None
    assert memory_fault(Config(), [hosted("digits", "fashion")], None) is None


def test_what_does_not_fit_says_what_it_takes_what_is_free_and_what_helps() -> None:
    need = needed_bytes(Config(), [hosted("fashion")])
    assert memory_fault(Config(), [hosted("fashion")], need + RESERVE_BYTES) is None
    fault = memory_fault(Config(), [hosted("fashion")], need + RESERVE_BYTES - 1)
    assert fault is not None
    for said in ("fashion 60", f"{need / MIB:.0f} MiB", "are free", "fewer networks", "limits.batch_max"):
        assert said in fault


def test_each_process_and_each_spare_counts() -> None:
    one = needed_bytes(Config(), [hosted("digits")])
    assert needed_bytes(Config(), [hosted("digits"), hosted("digits")]) == 2 * one
    assert needed_bytes(Config(spare=True), [hosted("digits")]) == 2 * one
    assert one > engine_bytes("onnx")
    assert needed_bytes(Config(engine="replay"), [hosted("fashion")]) == engine_bytes("replay"), "it loads no graphs"


def test_the_operators_limit_counts_what_runs_on_meanwhile() -> None:
    need = needed_bytes(Config(), [hosted("digits")])
    config = Config(memory_bytes_max=2 * need - 1)
    assert memory_fault(config, [hosted("digits")], 1 << 40) is None
    fault = memory_fault(config, [hosted("digits")], 1 << 40, kept_bytes=need)
    assert fault is not None
    assert "memory_bytes_max" in fault
    assert "run on until they are replaced" in fault


def test_a_daemon_that_would_not_fit_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = (TenantConfig("a"), TenantConfig("b", isolation="tenant", networks=("digits",)))
    config = Config(networks=("digits", "fashion"), tenants=tenants)
    assert [tenant for tenant, _ in hosting.workers_of(config, hosting.host(config, tmp_path))] == [None, "b"]
    monkeypatch.setattr(memory_budget, "memory_available_bytes", lambda: 100 * MIB)
    with pytest.raises(ConfigError, match=r"not loaded: digits, fashion would take about .*2 processes"):
        hosting.host(config, tmp_path)
    # Another unit's control group is not this one's to judge by: its worker looks for itself.
    hosting.host(replace(config, worker="socket"), tmp_path)


def test_a_worker_looks_before_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(shipped_directory() / "fashion")
    assert memory_budget.short_of_memory(bundle, 32) is None
    monkeypatch.setattr(memory_budget, "memory_available_bytes", lambda: 120 * MIB)
    assert memory_budget.short_of_memory(bundle, 1) is None
    said = memory_budget.short_of_memory(bundle, 32)
    assert said is not None
    assert "fashion would take about 60 MiB, so it is not loaded; 120 MiB are free" in said
    monkeypatch.setattr(memory_budget, "memory_available_bytes", lambda: None)
    assert memory_budget.short_of_memory(bundle, 32) is None


@pytest.mark.slow
@pytest.mark.e2e
def test_a_network_that_does_not_fit_beside_the_others_is_refused_and_all_goes_on(tmp_path: Path) -> None:
    # Room for the one worker, and for its successor with one small network, not with a large one too.
    allowed = 2 * engine_bytes("onnx") + 10 * MIB
    settings = f"memory_bytes_max = {allowed}\n{SETTINGS}"
    with (
        serving(tmp_path, settings=settings) as daemon,
        Client("a", endpoint=daemon.endpoint("a"), timeout_s=WAIT_S_MAX) as client,
    ):
        images = Images(client)
        with pytest.raises(Refused, match="memory_bytes_max allows") as refused:
            client.manage("add", "fashion")
        assert refused.value.code == "bundle"
        assert client.stats().worker == "ready"
        client.infer("digits", images.inputs[0], timeout_s=WAIT_S_MAX)
        client.manage("add", "identity-3k")
        assert {info.name for info in client.networks()} == {"digits", "identity-3k"}
