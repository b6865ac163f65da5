"""`delen gateway` beside a real daemon: what was asked of the one is seen at the other; the daemon's log is JSON."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from delen.clients.client import Client
from delen.clients.command_gateway import gateway_command
from delen.clients.private_daemon import PrivateDaemon
from delen.tests import daemon_fixture
from delen.tests.daemon_fixture import WAIT_S_MAX
from delen.tests.test_gateway_metrics import read
from delen.tests.test_traces import PARENT

ZEROS = np.zeros((1, 8, 8), np.float32)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    settings = f'log = "json"\n{daemon_fixture.SETTINGS}'
    with daemon_fixture.serving(tmp_path_factory.getbasetemp(), settings=settings) as made:
        yield made


@pytest.fixture
def pages(daemon: PrivateDaemon) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "delen", "gateway", "--metrics", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(
        [*command, "--endpoint", daemon.endpoint("a")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout as told:
        yield json.loads(told.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S_MAX) == 0


def get(url: str) -> str:
    asked = urlsplit(url)
    connection = http.client.HTTPConnection(asked.netloc, timeout=WAIT_S_MAX)
    connection.request("GET", f"{asked.path}?{asked.query}")
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.mark.e2e
@pytest.mark.slow
def test_what_a_tenant_asked_is_seen_by_who_watches(daemon: PrivateDaemon, pages: dict[str, str]) -> None:
    with Client(endpoint=daemon.endpoint("b")) as client:
        answer = client.infer("digits", ZEROS, traceparent=PARENT).answer
    assert answer.traceparent.split("-")[1] == PARENT.split("-")[1]
    assert get(pages["healthz"]) == "ok\n"
    samples = read(get(pages["metrics"]))
    values = {
        (sample.name, sample.labels.get("tenant"), sample.labels.get("outcome")): sample.value for sample in samples
    }
    assert values["delen_requests_total", "b", "answered"] == 1
    assert any(sample.name == "delen_execute_duration_seconds_count" for sample in samples)
    events: list[dict[str, Any]] = json.loads(get(pages["trace"] + "?tenant=b"))["traceEvents"]
    (request,) = [event for event in events if event.get("cat") == "request"]
    assert request["args"]["traceparent"] == answer.traceparent
    assert request["args"]["exit"] == answer.exit
    assert request["dur"] == pytest.approx(answer.total_us, abs=1)
    inside = [event["name"] for event in events if event.get("cat") == "step" and event["pid"] == request["pid"]]
    assert inside[0] == "segment 0"
    told = [json.loads(line)["message"] for line in daemon.until_said("ready; tenants").splitlines()]
    assert told[-1].startswith("ready; tenants a, b")


def test_the_dashboard_is_printed_as_it_ships() -> None:
    shown = CliRunner().invoke(gateway_command, ["--dashboard"])
    shipped = Path(__file__).parents[1] / "clients" / "grafana.json"
    assert shown.output == shipped.read_text("utf-8")


@pytest.mark.parametrize("address", ["9464", ":9464", "localhost:", "localhost:99999", "localhost:x", ""])
def test_an_address_that_is_none_is_told(address: str) -> None:
    shown = CliRunner().invoke(gateway_command, ["--metrics", address])
    assert shown.exit_code == 2
    assert "127.0.0.1:9464" in shown.output
